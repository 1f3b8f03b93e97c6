// Asks the server once a second while the page can be seen, and shows the answer.

import { clock, colour, count, element, money, seconds, setText } from "./text.js";
import { Table } from "./tables.js";
import { Timeline } from "./timeline.js";
import { CallDialog, ask } from "./call.js";

const PERIOD = 1000;
const AFTER_FAILURE = 3000;
const find = (id) => document.getElementById(id);

const page = { chosen: "", after: [0, 0], paused: false, state: null, timer: 0, asks: false, readOnly: true };
const dialog = new CallDialog(() => page);
export const timeline = new Timeline(find("timeline"), find("tip"), (id) => dialog.open(id));
const ran = (call) => call.running_for ?? call.age;

const calls = new Table(find("calls"), [
  { name: "call", text: (row) => row.id, key: (row) => row.id, number: true },
  { name: "function", text: (row) => row.function || "–" },
  { name: "state", text: (row) => row.state },
  { name: "for", text: (row) => seconds(ran(row)), key: ran, number: true },
  { name: "runner", text: (row) => row.runner, key: (row) => row.runner, number: true },
  { name: "slot", text: (row) => row.slot ?? "–", key: (row) => row.slot, number: true },
  { name: "attempt", text: (row) => row.attempt, key: (row) => row.attempt, number: true },
  { name: "since submit", text: (row) => seconds(row.age), key: (row) => row.age, number: true },
], { open: (row) => dialog.open(row.id), empty: "no call is on a runner" });

const functions = new Table(find("functions"), [
  { name: "function", text: (row) => row.function || "–" },
  { name: "running", text: (row) => count(row.running), key: (row) => row.running, number: true },
  { name: "done", text: (row) => count(row.done), key: (row) => row.done, number: true },
  { name: "failed", text: (row) => count(row.failed), key: (row) => row.failed, number: true, bad: (row) => row.failed },
  { name: "run p50", text: (row) => seconds(row.p50), key: (row) => row.p50, number: true },
  { name: "p95", text: (row) => seconds(row.p95), key: (row) => row.p95, number: true },
  { name: "in all", text: (row) => seconds(row.seconds), key: (row) => row.seconds, number: true },
], { sort: 6, down: true, empty: "no call has ended since this page began to look" });

const failures = new Table(find("failures"), [
  { name: "at", text: (row) => clock(row.time), key: (row) => row.time },
  { name: "call", text: (row) => row.call, key: (row) => row.call, number: true },
  { name: "function", text: (row) => row.function || "–" },
  { name: "error", text: (row) => row.error_type || row.kind, bad: () => true },
  { name: "runner", text: (row) => row.runner ?? "–", key: (row) => row.runner, number: true },
], { open: (row) => dialog.open(row.call), empty: "no call has failed since this page began to look" });

const runners = new Table(find("runners"), [
  { name: "runner", text: (row) => row.id, key: (row) => row.id, number: true },
  { name: "state", text: (row) => row.state },
  { name: "host", text: (row) => row.host || "–" },
  { name: "process", text: (row) => row.pid ?? "–", key: (row) => row.pid, number: true },
  { name: "backend", text: (row) => row.backend || page.state?.report.backend || "–" },
  { name: "age", text: (row) => seconds(row.age), key: (row) => row.age, number: true },
  { name: "slots", text: (row) => row.slots, key: (row) => row.slots, number: true },
  { name: "calls", text: (row) => row.in_flight, key: (row) => row.in_flight, number: true },
  { name: "done", text: (row) => count(row.calls_done), key: (row) => row.calls_done, number: true },
  { name: "cost", text: (row) => money(row.cost), key: (row) => row.cost, number: true },
  { name: "news", text: (row) => row.news },
], { empty: "no runner" });

async function refresh() {
  clearTimeout(page.timer);
  if (page.asks || page.paused || document.hidden) return;
  page.asks = true;
  let wait = PERIOD;
  try {
    const [callsAfter, tickAfter] = page.after;
    const query = new URLSearchParams({ pool: page.chosen, calls_after: callsAfter, tick_after: tickAfter });
    const state = await ask(`api/state?${query}`);
    const asked = query.get("pool");
    if (asked === page.chosen) show(state, asked);
    else wait = 0; // another pool was chosen meanwhile
    setLive("on", "live");
  } catch (error) {
    wait = AFTER_FAILURE;
    setLive("off", "no answer");
    if (!page.state) setText(find("empty"), `The program does not answer: it has ended, or it is stopped.\n${error.message}`);
  }
  page.asks = false;
  page.timer = setTimeout(refresh, wait);
}

function setLive(name, text) {
  if (page.paused) [name, text] = ["", "paused"]; // an answer may come after the click
  find("live").className = name;
  setText(find("live"), text);
}

function choose(key) {
  page.chosen = key;
  page.after = [0, 0];
  timeline.clear();
  refresh();
}

function show(state, asked) {
  page.readOnly = state.read_only;
  showPools(state);
  document.querySelector("main").hidden = !state.chosen;
  find("empty").hidden = Boolean(state.chosen);
  if (!state.chosen) {
    page.state = null;
    page.chosen = "";
    setText(find("empty"), ["No program of this user runs a pool.", ...state.silent].join("\n"));
    return;
  }
  if (state.chosen !== asked) {
    page.chosen = state.chosen;
    timeline.clear();
    find("min").value = find("max").value = "";
  }
  page.state = state;
  const { report, history } = state;
  showHead(report);
  showTiles(report, history);
  showWhy(report, state.silent);
  if (!history.error) {
    if (history.next_call < page.after[0]) timeline.clear(); // its history was forgotten, and begins anew
    page.after = [history.next_call, history.next_tick];
    timeline.add(history, report);
  }
  timeline.draw();
  showNote(history);
  showRows(report, history);
  dialog.refresh();
}

function showPools(state) {
  const nav = find("pools");
  const wanted = state.pools.map((pool) => `${pool.pool} · ${pool.program} ${pool.pid}`);
  if (nav.childElementCount !== wanted.length || [...nav.children].some((each, place) => each.dataset.key !== state.pools[place].key)) {
    nav.replaceChildren(...state.pools.map((pool) => {
      const button = element("button");
      button.type = "button";
      button.dataset.key = pool.key;
      button.addEventListener("click", () => choose(pool.key));
      return button;
    }));
  }
  [...nav.children].forEach((button, place) => {
    setText(button, wanted[place]);
    button.setAttribute("aria-current", String(button.dataset.key === state.chosen));
  });
  nav.hidden = wanted.length < 2;
}

function showHead(report) {
  document.title = `${report.pool} – dragonfly`;
  setText(find("name"), report.pool);
  setText(find("program"), `${report.program}, process ${report.pid}, on ${report.backend}`);
  const form = find("resize");
  form.hidden = page.readOnly;
  for (const name of ["min", "max"]) {
    const input = find(name);
    if (document.activeElement !== input && input.dataset.shown !== String(report.stats[name])) {
      input.value = input.dataset.shown = String(report.stats[name]);
    }
  }
}

function showTiles(report, history) {
  const { stats, times } = report;
  const states = Object.entries(report.runner_states).map(([name, number]) => `${number} ${name}`).join(", ");
  const slots = stats.slots_busy + stats.slots_free;
  const waiting = stats.calls_queued + stats.calls_delayed;
  const more = [["calls_cancelled", "cancelled"], ["calls_timed_out", "timed out"], ["calls_retried", "retried"]]
    .filter(([key]) => stats[key]).map(([key, word]) => `${count(stats[key])} ${word}`).join(", ");
  // The pool counts an answer as done, also if it is an exception of the function. The history knows both.
  const raised = history.error ? 0 : history.functions.reduce((sum, each) => sum + each.failed, 0);
  const failed = Math.max(raised, stats.calls_failed);
  const tiles = [
    ["runners", `${stats.runners_up} of ${stats.max}`, states || "none"],
    ["busy slots", `${stats.slots_busy} of ${slots}`, slots ? `${Math.round((100 * stats.slots_busy) / slots)} %` : ""],
    ["waiting", count(waiting), report.oldest_wait === null ? "" : `the oldest for ${seconds(report.oldest_wait)}`],
    ["on runners", count(stats.calls_sent), `${count(stats.calls_running)} running`],
    ["done", count(stats.calls_done), more],
    ["failed", count(failed), failed && !history.error ? `since ${clock(history.since)}` : "", failed],
    ["wait p50", seconds(times.wait_p50), `p95 ${seconds(times.wait_p95)}`],
    ["run p50", seconds(times.run_p50), `p95 ${seconds(times.run_p95)}`],
    ["machine time", seconds(stats.machine_seconds), stats.cost ? `about ${money(stats.cost)}` : ""],
  ];
  const list = find("tiles");
  while (list.childElementCount < tiles.length) {
    const [tile, value] = [element("div"), element("dd")];
    value.append(element("span"), element("small"));
    tile.append(element("dt"), value);
    list.append(tile);
  }
  tiles.forEach(([name, value, small, bad], place) => {
    const tile = list.children[place];
    setText(tile.children[0], name);
    setText(tile.children[1].children[0], value);
    setText(tile.children[1].children[1], small || "\u00a0");
    tile.className = bad ? "bad" : "";
  });
}

function showWhy(report, silent) {
  const tiers = report.tiers.map((tier) => `${tier.name} ${tier.up}${tier.max === null ? "" : ` of ${tier.max}`}`).join(", ");
  setText(find("why"), [report.why, tiers && `runners by backend: ${tiers}`, ...silent].filter(Boolean).join("\n"));
  find("why").className = report.held_by.length ? "held" : "";
  const list = find("boot-errors");
  list.hidden = !report.boot_errors.length;
  const texts = report.boot_errors.map((each) => `${clock(each.time)} runner ${each.runner} failed to boot: ${each.text}`);
  if (list.dataset.shown !== texts.join("\n")) {
    list.dataset.shown = texts.join("\n");
    list.replaceChildren(...texts.map((text) => element("li", text)));
  }
}

function showNote(history) {
  if (history.error) {
    setText(find("note"), `No timeline: ${history.error}`);
    return;
  }
  const parts = [`What has happened since ${clock(history.since)}. Calls of a few milliseconds have no bar of their own: `
    + "the shade at the foot of a runner is the share of its slots that they kept busy."];
  if (timeline.missed) parts.push(`${count(timeline.missed)} calls came too fast to be drawn one by one.`);
  setText(find("note"), parts.join(" "));
  const named = [...timeline.names].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([name]) => [name || "–", colour(name)]);
  const style = getComputedStyle(document.documentElement);
  const words = [...named, ["failed", style.getPropertyValue("--bad")], ["boot", style.getPropertyValue("--boot")]];
  const legend = find("legend");
  if (legend.dataset.shown === JSON.stringify(words)) return;
  legend.dataset.shown = JSON.stringify(words);
  legend.replaceChildren(...words.map(([word, shade]) => {
    const entry = element("span");
    const mark = element("i");
    mark.style.background = shade;
    entry.append(mark, word);
    return entry;
  }));
}

function showRows(report, history) {
  const wanted = find("filter").value.trim().toLowerCase();
  const rows = report.calls.filter((row) => !wanted
    || `${row.id} ${row.function} ${row.state} runner ${row.runner}`.toLowerCase().includes(wanted));
  calls.update(rows);
  const more = report.stats.calls_sent - report.calls.length;
  setText(find("calls-count"), more > 0 ? `the ${report.calls.length} that run longest, of ${count(report.stats.calls_sent)}` : "");
  const all = Object.values(report.runner_states).reduce((sum, each) => sum + each, 0);
  setText(find("runners-count"), all > report.runners.length ? `${report.runners.length} of ${count(all)}` : "");
  const news = new Map(history.error ? [] : history.runners.map((each) => [each.id, each.text]));
  runners.update(report.runners.map((row) => ({ ...row, news: news.get(row.id) || "" })));
  if (history.error) return;
  const running = new Map();
  for (const [, name] of history.running) running.set(history.names[name], (running.get(history.names[name]) || 0) + 1);
  const known = new Set(history.functions.map((each) => each.function));
  const begun = [...running.keys()].filter((name) => !known.has(name))
    .map((name) => ({ function: name, done: 0, failed: 0, seconds: 0, p50: null, p95: null }));
  functions.update([...history.functions, ...begun].map((each) => ({ ...each, running: running.get(each.function) || 0 })));
  failures.update(history.failures);
}

find("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  setText(find("pause"), page.paused ? "Go on" : "Pause");
  setLive("", "…");
  refresh();
});
find("span").addEventListener("change", () => {
  timeline.span = Number(find("span").value);
  timeline.draw();
});
find("filter").addEventListener("input", () => page.state && showRows(page.state.report, page.state.history));
find("resize").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = { pool: page.chosen, min: Number(find("min").value), max: Number(find("max").value) };
  try {
    const bounds = await ask("api/resize", body);
    setText(find("resized"), `${bounds.min} to ${bounds.max} runners`);
  } catch (error) {
    setText(find("resized"), error.message);
  }
  refresh();
});
document.addEventListener("visibilitychange", refresh);
refresh();
