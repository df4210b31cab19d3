// A run's page while it runs: what the stream of events says is written into what is there already.
// Text only: nothing that a guest says becomes markup. Without this the page loads itself again.
"use strict";

const live = document.getElementById("live");
const words = { waiting: "to come", now: "now", done: "done", failed: "failed" };
const most = 200; // rows of the list of events

function put(id, text) {
  document.getElementById(id).textContent = text;
}

function mark(step, state, note) {
  step.className = `step t-${state}`;
  step.querySelector("span").textContent = words[state];
  step.querySelector("small").textContent = note;
}

function stepOf(name) {
  return [...live.querySelectorAll("[data-step]")].find((step) => step.dataset.step === name);
}

function begin(name) {
  const step = stepOf(name);
  if (!step) return;
  for (const other of live.querySelectorAll("[data-step]")) {
    if (name === "plan") mark(other, "waiting", "");
    else if (other.classList.contains("t-now")) mark(other, "done", "");
  }
  mark(step, "now", "");
  put("spoken", `Phase ${name}`);
  put("sentence", `The rehearsal is running (phase ${name}).`);
}

function finish(text) {
  const [name, word, ...rest] = text.split(" ");
  const step = stepOf(name);
  if (step) mark(step, word === "failed" ? "failed" : "done", rest.join(" "));
}

function list(event) {
  const rows = document.getElementById("events");
  const row = rows.insertRow();
  row.className = `k-${event.kind}`;
  const time = document.createElement("time");
  time.dateTime = event.at;
  time.textContent = new Date(event.at).toISOString().slice(11, 19);
  const when = row.insertCell();
  when.className = "time";
  when.append(time);
  const what = document.createElement(event.kind === "phase" ? "b" : "span");
  what.textContent = event.text;
  row.insertCell().append(what);
  while (rows.rows.length > most) rows.deleteRow(0);
}

function hear(message) {
  const event = JSON.parse(message.data);
  list(event);
  put("detail", event.text);
  const share = document.getElementById("share");
  share.hidden = event.percent === null;
  if (event.percent !== null) share.value = event.percent;
  if (event.kind === "phase") begin(event.text);
  if (event.kind === "phase-end") finish(event.text);
  if (event.kind === "state") put("spoken", event.text);
}

if (live) {
  const stream = new EventSource(live.dataset.stream);
  for (const kind of ["state", "phase", "phase-end", "detail", "check"]) {
    stream.addEventListener(kind, hear);
  }
  stream.addEventListener("end", () => {
    stream.close();
    location.reload();
  });
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
