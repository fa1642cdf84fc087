// The status page, live: fetches itself and puts what is new in place, and feeds the charts. Keeps nothing but a token.
import { Chart, bytes } from "./chart.js";
import { Orders } from "./orders.js";

const LOOK_SECONDS = 2;
const RANGES = { "5 min": 300, "15 min": 900, "1 h": 3600 };
const STEPS = 450;
const SERIES = '{__name__=~"rag_memory_(used|threshold|limit)_bytes|ALERTS",alertstate!~"pending|inactive",target!=""}';

const TIMES = { hourCycle: "h23" };

const charts = new Map(); // target -> Chart
let span = 900; // seconds that the charts show
let last = 0; // Unix time of the newest column there is
let failed = ""; // since when nothing answers, as people read it

const now = () => Number(document.getElementById("now").value);
const step = () => Math.max(1, Math.round(span / STEPS));

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Show moments in the reader's own time; the page has them in UTC. */
function localize(root) {
  for (const element of root.querySelectorAll("time")) {
    const at = new Date(element.dateTime);
    const today = at.toDateString() === new Date().toDateString();
    element.title = element.textContent;
    element.textContent = today ? at.toLocaleTimeString([], TIMES) : at.toLocaleString([], TIMES);
  }
}

/** Put the elements of a fresh page in the place of ours. What is open, focused or drawn stays. */
function renew(fresh) {
  for (const element of document.querySelectorAll("[data-live]")) {
    const source = fresh.getElementById(element.id);
    const said = source.outerHTML;
    if (said === element.said) continue;
    element.said = said;
    element.replaceChildren(...source.childNodes);
    localize(element);
  }
  for (const chart of charts.values()) chart.orders.renew();
  document.title = fresh.title;
}

const names = (root) => JSON.stringify(Array.from(root.querySelectorAll("[data-target]"), (card) => card.dataset.target));

class Unanswered extends Error {}

/** What is served there, as text. Throws Unanswered. */
async function get(path, parameters) {
  try {
    const answer = await fetch(parameters ? `${path}?${new URLSearchParams(parameters)}` : path, { signal: AbortSignal.timeout(10000) });
    if (answer.ok) return await answer.text();
  } catch (error) {
    if (!(error instanceof TypeError) && !(error instanceof DOMException)) throw error;
  }
  throw new Unanswered(path);
}

async function renewPage() {
  const fresh = new DOMParser().parseFromString(await get(location.pathname), "text/html");
  if (names(fresh) !== names(document) || fresh.body.dataset.token !== document.body.dataset.token) return location.reload();
  renew(fresh);
}

/** What is new since the last look; all of it where that is long ago. */
async function feed() {
  const width = step();
  const end = Math.floor(now() / width) * width;
  const whole = end - last > span / 2 || last > end;
  const start = whole ? end - span : last + width;
  if (start > end) return;
  const answer = JSON.parse(await get("api/v1/query_range", { query: SERIES, start, end, step: width }));
  const found = new Map();
  for (const series of answer.data.result) {
    const target = series.metric.target;
    if (!found.has(target)) found.set(target, []);
    found.get(target).push(series);
  }
  for (const [target, chart] of charts) chart.add(found.get(target) ?? [], start, end, width, whole ? span : 0);
  last = end;
}

async function mark(limit) {
  const { actions, incidents } = JSON.parse(await get("api/v1/actions", { limit })).data;
  for (const [target, chart] of charts) {
    chart.mark(actions.filter((row) => row.target === target), incidents.filter((row) => row.target === target));
  }
}

function alive(yes) {
  const line = document.getElementById("offline");
  failed = yes ? "" : failed || new Date().toLocaleTimeString([], TIMES);
  line.hidden = yes;
  if (!yes) line.textContent = `The sidecar has not answered since ${failed}. What stands here is from before.`;
  for (const chart of charts.values()) chart.old(!yes);
}

async function look(limit = 20) {
  try {
    await renewPage();
    await Promise.all([feed(), mark(limit)]);
    alive(true);
  } catch (error) {
    if (!(error instanceof Unanswered)) throw error;
    alive(false);
  }
  for (const chart of charts.values()) chart.draw(now());
}

let timer = 0;
async function turn() {
  clearTimeout(timer);
  try {
    if (!document.hidden) await look();
  } finally {
    timer = setTimeout(turn, LOOK_SECONDS * 1000);
  }
}

function chooser() {
  const box = document.getElementById("ranges");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "time shown");
  for (const [name, seconds] of Object.entries(RANGES)) {
    const button = make("button", { type: "button", textContent: name });
    button.setAttribute("aria-pressed", String(seconds === span));
    button.addEventListener("click", () => {
      span = seconds;
      last = 0;
      for (const other of box.children) other.setAttribute("aria-pressed", String(other === button));
      look();
    });
    box.append(button);
  }
}

document.documentElement.classList.add("js");
localize(document);
chooser();
const orders = new Orders(document.body.dataset.token === "yes", make, bytes, () => look());
for (const card of document.querySelectorAll("[data-target]")) {
  const chart = new Chart(card.querySelector("[data-chart]"), card.dataset.target, make);
  chart.orders = orders.buttons(card);
  charts.set(card.dataset.target, chart);
}
document.addEventListener("visibilitychange", () => document.hidden || turn());
await look(100);
timer = setTimeout(turn, LOOK_SECONDS * 1000);
document.documentElement.dataset.awake = "yes";
