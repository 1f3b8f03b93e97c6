// The timeline: a lane for each slot, drawn on a canvas that is as high as what can be seen of it.

import { clock, colour, seconds } from "./text.js";

const KEPT_CALLS = 20000;
const KEPT_SECONDS = 1800;
const LEFT = 118;
const AXIS = 22;
const GAP = 5;
const MOST_EMPTY = 16;
const SHORTEST = 5; // seconds
const ENDED = 5; // seconds for which a runner that has ended stays, at the least

export class Timeline {
  constructor(box, tip, open) {
    this.box = box;
    this.canvas = box.querySelector("canvas");
    this.room = box.querySelector(".room");
    this.tip = tip;
    this.span = 60;
    this.seen = 60; // the seconds that are drawn: no more than the span
    this.clear();
    box.addEventListener("scroll", () => this.draw());
    box.addEventListener("mousemove", (event) => this.hover(event));
    box.addEventListener("mouseleave", () => { tip.hidden = true; });
    box.addEventListener("click", (event) => {
      const hit = this.hit(event);
      if (hit && hit.call) open(hit.call.id);
    });
    new ResizeObserver(() => this.draw()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.calls = [];
    this.running = [];
    this.short = new Map(); // by runner: by tick: [calls, seconds]
    this.runners = [];
    this.now = 0;
    this.tick = 0.5;
    this.slots = new Map();
    this.hosts = new Map();
    this.hits = [];
    this.missed = 0;
    this.names = new Map();
  }

  add(history, report) {
    const { names } = history;
    for (const [id, name, runner, slot, begin, end, outcome] of history.calls) {
      this.calls.push({ id, name: names[name], runner, slot, begin, end, outcome });
    }
    this.now = history.now;
    this.tick = history.tick;
    this.missed += history.missed;
    const oldest = this.now - KEPT_SECONDS;
    let gone = Math.max(0, this.calls.length - KEPT_CALLS);
    while (gone < this.calls.length && this.calls[gone].end < oldest) gone += 1;
    if (gone) this.calls.splice(0, gone);
    this.running = history.running.map(([id, name, runner, slot, begin]) => (
      { id, name: names[name], runner, slot, begin, end: null, outcome: "running" }));
    for (const [begin, runner, calls, busy] of history.short) {
      if (!this.short.has(runner)) this.short.set(runner, new Map());
      this.short.get(runner).set(begin, [calls, busy]);
    }
    for (const [runner, spans] of this.short) {
      for (const begin of spans.keys()) if (begin < oldest) spans.delete(begin);
      if (!spans.size) this.short.delete(runner);
    }
    this.runners = history.runners;
    for (const each of report.runners) {
      this.slots.set(each.id, each.slots);
      this.hosts.set(each.id, each.host || each.backend || "");
    }
  }

  // The runners that were there in the span, each with its lanes: `lane` by slot.
  blocks(begin) {
    const blocks = new Map();
    for (const each of this.runners) {
      if (each.down !== null && each.down < Math.max(begin, 0) && each.down < this.now - ENDED) continue;
      if (each.boot === null && each.up === null) continue;
      blocks.set(each.id, { runner: each, slots: new Map(), calls: [], lanes: 0 });
    }
    const add = (call) => {
      const block = blocks.get(call.runner);
      if (!block || (call.end !== null && call.end < begin)) return;
      block.calls.push(call);
      const slot = block.slots.get(call.slot);
      const end = call.end === null ? Infinity : call.end;
      if (!slot) block.slots.set(call.slot, [call.begin, end]);
      else { slot[0] = Math.min(slot[0], call.begin); slot[1] = Math.max(slot[1], end); }
    };
    this.calls.forEach(add);
    this.running.forEach(add);
    const found = [...blocks.values()].sort((a, b) => a.runner.id - b.runner.id);
    for (const block of found) this.assignLanes(block);
    return found;
  }

  // A slot that was replaced has another number. The new one gets a lane that is free.
  assignLanes(block) {
    const ends = [];
    const lanes = new Map();
    for (const [slot, [begin, end]] of [...block.slots].sort((a, b) => a[1][0] - b[1][0])) {
      if (slot === null) continue;
      let lane = slot < (this.slots.get(block.runner.id) || 0) && !(ends[slot] > begin) ? slot : -1;
      if (lane < 0) lane = ends.findIndex((each) => each === undefined || each <= begin);
      if (lane < 0) lane = ends.length;
      while (ends.length < lane) ends.push(-Infinity);
      ends[lane] = end;
      lanes.set(slot, lane);
    }
    // A runner with few slots shows all of them, one with many those that were used.
    const slots = this.slots.get(block.runner.id) || 0;
    block.lanes = Math.max(1, ends.length, slots <= MOST_EMPTY ? slots : 0);
    block.lane = lanes;
  }

  draw() {
    // A pool that is younger than the span fills the width.
    const first = this.runners.reduce((least, each) => Math.min(least, each.boot ?? each.up ?? least), this.now);
    this.seen = Math.min(this.span, Math.max(SHORTEST, this.now - first));
    const blocks = this.blocks(this.now - this.seen);
    this.names = new Map(); // by function: the number of its bars
    for (const block of blocks) {
      for (const { name } of block.calls) this.names.set(name, (this.names.get(name) || 0) + 1);
    }
    const total = blocks.reduce((sum, block) => sum + block.lanes, 0);
    const height = total <= 14 ? 18 : total <= 40 ? 10 : total <= 120 ? 6 : 3;
    let y = AXIS + 3;
    for (const block of blocks) {
      block.y = y;
      block.height = Math.max(12, block.lanes * height);
      y += block.height + GAP;
    }
    const full = Math.max(90, y + 4);
    const shown = Math.min(full, 430);
    // The canvas covers the first part of the scrolled height, and the room below it the rest.
    this.room.style.height = `${full - shown}px`;
    this.paint(blocks, this.box.clientWidth, shown);
  }

  paint(blocks, width, height) {
    const scale = devicePixelRatio || 1;
    const { canvas } = this;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const style = getComputedStyle(document.documentElement);
    const shade = (name) => style.getPropertyValue(`--${name}`).trim();
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    c.textBaseline = "middle";
    const first = this.now - this.seen;
    const x = (when) => LEFT + Math.max(0, Math.min(1, (when - first) / this.seen)) * (width - LEFT - 10);
    const scroll = this.box.scrollTop;
    const colours = { up: shade("up"), boot: shade("boot"), bad: shade("bad"), cancelled: shade("cancelled") };
    this.hits = [];
    for (const block of blocks) {
      const y = block.y - scroll;
      if (y + block.height < 0 || y > height) continue;
      this.paintRunner(c, block, y, x, colours);
      this.paintCalls(c, block, y, x, colours, first);
      c.fillStyle = block.runner.failed ? shade("bad") : shade("ink");
      c.fillText(this.label(block.runner), 10, y + Math.min(block.height, 18) / 2, LEFT - 18);
    }
    this.paintAxis(c, width, x, shade);
    if (!blocks.length) {
      c.fillStyle = shade("soft");
      c.fillText("no runner in this time", LEFT, AXIS + 24);
    }
  }

  label(runner) {
    const host = this.hosts.get(runner.id);
    return `runner ${runner.id}${host ? ` ${host}` : ""}`;
  }

  paintRunner(c, block, y, x, colours) {
    const { runner, height } = block;
    const end = runner.down === null ? this.now : runner.down;
    const up = runner.up === null ? end : runner.up;
    const begin = runner.boot === null ? up : runner.boot;
    const box = (from, to, fill) => {
      c.fillStyle = fill;
      if (x(to) > x(from)) c.fillRect(x(from), y, x(to) - x(from), height);
    };
    box(begin, up, runner.failed ? colours.bad : colours.boot);
    box(up, end, colours.up);
    const words = runner.text || "";
    this.hits.push({ x0: x(begin), x1: x(end), y0: y, y1: y + height, runner, words });
    const spans = this.short.get(runner.id);
    if (!spans) return;
    const slots = this.slots.get(runner.id) || block.lanes;
    c.fillStyle = colour("short calls");
    for (const [from, [, busy]] of spans) {
      if (from + this.tick < this.now - this.seen) continue;
      const share = Math.min(1, busy / this.tick / slots);
      const high = Math.max(1, share * height);
      c.globalAlpha = 0.55;
      c.fillRect(x(from), y + height - high, Math.max(1, x(from + this.tick) - x(from) - 0.5), high);
    }
    c.globalAlpha = 1;
  }

  paintCalls(c, block, y, x, colours, first) {
    const lane = block.height / block.lanes;
    for (const call of block.calls) {
      const end = call.end === null ? this.now : call.end;
      if (end < first) continue;
      const x0 = x(call.begin);
      const wide = Math.max(1, x(end) - x0 - (x(end) - x0 > 4 ? 1 : 0));
      const place = block.lane.get(call.slot);
      const y0 = place === undefined ? y : y + place * lane;
      const high = place === undefined ? block.height : Math.max(1, lane - (lane >= 6 ? 1.5 : 0.5));
      c.globalAlpha = place === undefined ? 0.5 : call.outcome === "running" ? 0.75 : 1;
      c.fillStyle = colours[{ failed: "bad", cancelled: "cancelled" }[call.outcome]] || colour(call.name);
      c.fillRect(x0, y0, wide, high);
      this.hits.push({ x0, x1: x0 + wide, y0, y1: y0 + high, call });
    }
    c.globalAlpha = 1;
  }

  paintAxis(c, width, x, shade) {
    c.fillStyle = shade("panel");
    c.fillRect(0, 0, width, AXIS);
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((each) => this.seen / each <= 8) || 600;
    for (let when = Math.ceil((this.now - this.seen) / step) * step; when <= this.now; when += step) {
      c.fillStyle = shade("line");
      c.fillRect(Math.round(x(when)), AXIS - 5, 1, 5);
      c.fillStyle = shade("soft");
      c.textAlign = x(when) > width - 60 ? "right" : "left";
      c.fillText(clock(when), x(when) + (c.textAlign === "right" ? -4 : 3), 9);
      c.textAlign = "left";
    }
    c.fillStyle = shade("line");
    c.fillRect(0, AXIS - 1, width, 1);
  }

  hit(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    if (y < AXIS) return null;
    for (let place = this.hits.length - 1; place >= 0; place -= 1) {
      const each = this.hits[place];
      if (x >= each.x0 - 1 && x <= each.x1 + 1 && y >= each.y0 && y <= each.y1) return each;
    }
    return null;
  }

  hover(event) {
    const hit = this.hit(event);
    this.box.style.cursor = hit && hit.call ? "pointer" : "";
    this.tip.hidden = !hit;
    if (!hit) return;
    if (hit.call) {
      const { call } = hit;
      const where = call.slot === null ? `runner ${call.runner}` : `runner ${call.runner}, slot ${call.slot}`;
      const took = seconds((call.end === null ? this.now : call.end) - call.begin);
      this.tip.textContent = `${call.name} (call ${call.id})\n${call.outcome}, ${took}, since ${clock(call.begin)}\n${where}`;
    } else this.tip.textContent = `${this.label(hit.runner)}\n${hit.words}`.trim();
    this.tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 350)}px`;
    this.tip.style.top = `${event.clientY + 16}px`;
  }
}
