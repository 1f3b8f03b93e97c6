// One call: what is known of it, its traceback, its output, and its end.

import { clock, element, seconds, setText } from "./text.js";

const find = (id) => document.getElementById(id);

// Return the answer to a request. With a body it is a POST.
export async function ask(path, body) {
  const options = body === undefined ? {}
    : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { cache: "no-store", ...options });
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(text || response.statusText);
  }
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

export class CallDialog {
  // page(): the state of the page.
  constructor(page) {
    this.page = page;
    this.box = find("call");
    this.id = 0;
    this.isOver = false;
    this.kill = find("call-kill").querySelector("button");
    this.killed = find("call-kill").querySelector("span");
    find("call-close").addEventListener("click", () => this.box.close());
    this.box.addEventListener("click", (event) => { if (event.target === this.box) this.box.close(); });
    this.box.addEventListener("close", () => { this.id = 0; });
    this.kill.addEventListener("click", () => this.killClicked());
  }

  open(id) {
    this.id = id;
    this.isOver = false;
    this.calm();
    setText(this.killed, "");
    setText(find("call-name"), `call ${id}`);
    for (const name of ["call-facts", "traceback", "output"]) find(name).replaceChildren();
    if (!this.box.open) this.box.showModal();
    this.refresh();
  }

  calm() {
    this.kill.className = "";
    setText(this.kill, "Kill this call");
  }

  async refresh() {
    const { id } = this;
    if (!id || this.isOver) return;
    try {
      const query = new URLSearchParams({ pool: this.page().chosen, call: id });
      const call = await ask(`api/call?${query}`);
      if (id === this.id) this.show(call);
    } catch (error) {
      if (id !== this.id) return;
      // What was shown of it before stays.
      this.isOver = true;
      find("call-kill").hidden = true;
      if (!find("call-facts").childElementCount) setText(find("traceback"), error.message);
    }
  }

  show(call) {
    setText(find("call-name"), `${call.function || "–"} (call ${call.call})`);
    const isHere = call.age !== undefined;
    const facts = {
      state: call.state, runner: call.runner ?? "–", slot: call.slot ?? "–", attempt: call.attempt ?? "–",
      ...(isHere ? { "running for": seconds(call.running_for), "since submit": seconds(call.age) } : {}),
      ...(call.seconds === undefined ? {} : { "ran for": seconds(call.seconds) }),
      ...(call.time === undefined ? {} : { "ended at": clock(call.time) }),
      ...(call.error_type ? { error: call.error_type } : {}),
    };
    find("call-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
      const fact = element("div");
      fact.append(element("dt", name), element("dd", String(value)));
      return fact;
    }));
    find("call-kill").hidden = !isHere || this.page().readOnly;
    for (const id of ["traceback", "traceback-head"]) find(id).hidden = !call.traceback;
    setText(find("traceback"), call.traceback || "");
    const none = call.output === undefined ? "Only the output of the latest calls is kept, and only in pools with output='capture'."
      : "nothing was printed";
    setText(find("output"), call.output || call.no_output || none);
  }

  async killClicked() {
    if (!this.kill.className) {
      this.kill.className = "bad";
      setText(this.kill, "Really? Kill it now");
      return;
    }
    this.calm();
    try {
      await ask("api/kill", { pool: this.page().chosen, call: this.id });
      setText(this.killed, "it is being stopped");
    } catch (error) {
      setText(this.killed, error.message);
    }
    this.refresh();
  }
}
