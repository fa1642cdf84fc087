// The chart of a target: used memory, its lines, when alerts fired and incidents lasted, and every cleanup as a mark.
const MIB = 2 ** 20;
const LEVELS = ["preventive", "main", "critical"];
const COLUMNS = ["used", ...LEVELS, "limit"];
const TONES = { effective: "good", partial: "warn", unknown: "warn", interrupted: "warn", ineffective: "bad", refused: "bad", undelivered: "bad" };
const SEVERITIES = ["info", "warning", "critical"];
const HEIGHT = 260;
const LOWEST_SHARE = 0.3; // of the critical line: below this the lines would flatten what is to be seen
const SHORTEST_SECONDS = 120;
const MOST_MARKS = 200;
const RADIUS = 8;

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  const gib = Math.abs(size) >= 10 * 1024 * MIB;
  return `${(size / (gib ? 1024 * MIB : MIB)).toLocaleString(undefined, { maximumFractionDigits: 1 })} ${gib ? "GiB" : "MiB"}`;
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** One chart. `box` is where it is put; `make` makes elements. Lives as long as the page. */
export class Chart {
  constructor(box, target, make) {
    this.target = target;
    this.times = [];
    this.values = Object.fromEntries(COLUMNS.map((name) => [name, []]));
    this.alerts = new Map(); // labels -> {name, severity, times}
    this.cleanups = new Map(); // id -> row
    this.incidents = new Map(); // id -> row
    this.span = 900;
    this.place = make("div", { className: "chart", tabIndex: 0 });
    this.place.setAttribute("role", "img");
    this.readout = make("div", { className: "readout" });
    const item = (name, text) => make("li", { className: name }, make("i"), text);
    const legend = make("ul", { className: "legend" }, item("used", "memory used"), item("alert", "alert fires"),
      item("incident", "incident"), item("cleanup", "cleanup: L light, S standard, A aggressive"));
    box.replaceChildren(this.place, this.readout, legend);
    this.plot = new uPlot(this.options(), [[], [], [], [], [], []], this.place);
    new ResizeObserver(() => this.resize()).observe(box);
    this.resize();
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.place.addEventListener("focus", () => this.readout.setAttribute("aria-live", "polite"));
    this.place.addEventListener("blur", () => { this.readout.removeAttribute("aria-live"); this.leave(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot.redraw(false));
  }

  options() {
    const line = (name, dash) => ({ stroke: () => colour(name), width: 1.5, dash, points: { show: false }, spanGaps: false });
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: () => colour("dim"), font, grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false } };
    return {
      width: 600, height: HEIGHT, legend: { show: false }, padding: [20, 26, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: (_, series) => (series === 1 ? 8 : 0) } },
      scales: { x: { range: () => [this.begin(), this.end] }, y: { range: () => [0, this.top()] } },
      axes: [
        { ...axis, size: 28, values: (_, splits, __, ___, apart) => splits.map((at) => new Date(at * 1000).toLocaleTimeString([], {
          hourCycle: "h23", hour: "2-digit", minute: "2-digit", ...(apart < 60 ? { second: "2-digit" } : {}) })), space: 90 },
        { ...axis, size: 72, values: (_, splits) => splits.map((size) => size ? bytes(size) : "0"),
          incrs: Array.from({ length: 40 }, (_, power) => MIB * 2 ** (power - 4)), space: 44 },
      ],
      series: [{}, { stroke: () => colour("used"), fill: () => colour("used-fill"), width: 2, points: { show: false } },
        line("preventive", [2, 4]), line("main", [7, 4]), line("critical", []), line("limit", [1, 3])],
      hooks: { drawClear: [() => this.drawAlerts()], draw: [() => this.drawMarks()], setCursor: [() => this.tell()] },
    };
  }

  /** What came anew, from `start` to `end` every `width` seconds; `span` > 0: it is all there is. */
  add(found, start, end, width, span) {
    if (span) {
      this.span = span;
      this.times = [];
      for (const name of COLUMNS) this.values[name] = [];
      this.alerts.clear();
    }
    const first = this.times.length;
    for (let at = start; at <= end + width / 1000; at += width) this.times.push(at);
    for (const name of COLUMNS) while (this.values[name].length < this.times.length) this.values[name].push(null);
    this.width = width;
    this.end = end;
    for (const { metric, values } of found) {
      const into = { rag_memory_used_bytes: "used", rag_memory_limit_bytes: "limit", rag_memory_threshold_bytes: metric.level }[metric.__name__];
      if (metric.__name__ === "ALERTS") this.fired(metric, values);
      else if (this.values[into]) {
        for (const [at, value] of values) {
          const column = first + Math.round((at - start) / width);
          this.values[into][column] = Number.isFinite(Number(value)) ? Number(value) : null;
        }
      }
    }
    const old = this.times.findIndex((at) => at >= end - this.span);
    this.times.splice(0, old);
    for (const name of COLUMNS) this.values[name].splice(0, old);
    for (const [key, alert] of this.alerts) {
      alert.times = alert.times.filter((at) => at >= end - this.span);
      if (!alert.times.length) this.alerts.delete(key);
    }
  }

  fired(metric, values) {
    const key = JSON.stringify(metric);
    const alert = this.alerts.get(key) ?? { name: metric.alertname, severity: metric.severity, times: [] };
    alert.times.push(...values.map(([at]) => at));
    this.alerts.set(key, alert);
  }

  mark(cleanups, incidents) {
    for (const [rows, map] of [[cleanups, this.cleanups], [incidents, this.incidents]]) {
      for (const row of rows) map.set(row.id, row);
      while (map.size > MOST_MARKS) map.delete(map.keys().next().value);
    }
  }

  old(yes) { this.place.classList.toggle("old", yes); }

  resize() {
    const width = this.place.clientWidth;
    if (width) this.plot.setSize({ width, height: width < 480 ? 210 : HEIGHT });
  }

  draw(now) {
    if (!this.times.length) return;
    this.end = Math.max(this.end, now);
    this.plot.setData([this.times, ...COLUMNS.map((name) => this.column(name))]);
    this.tell();
  }

  highest() { return this.values.used.reduce((most, value) => Math.max(most, value ?? 0), 0); }

  latest(name) { return this.values[name].findLast((value) => value !== null) ?? null; }

  /** The left end: where the data begin, if that is later than what was chosen. */
  begin() {
    const first = this.times[this.values.used.findIndex((value) => value !== null)] ?? 0;
    return Math.max(this.end - this.span, Math.min(first, this.end - SHORTEST_SECONDS));
  }

  /** A column as it is drawn: a line is what it was first said to be, also before that. */
  column(name) {
    const values = this.values[name], first = values.findIndex((value) => value !== null);
    return name === "used" || first < 1 ? values : [...Array(first).fill(values[first]), ...values.slice(first)];
  }

  /** The upper end: the lines are shown where they are near enough to matter. */
  top() {
    const used = this.highest(), critical = this.latest("critical") ?? 0, limit = this.latest("limit") ?? 0;
    let most = used * 1.15;
    if (used > LOWEST_SHARE * critical) most = Math.max(most, critical * 1.08);
    if (limit && limit < critical * 1.3 && most >= critical) most = Math.max(most, limit * 1.05);
    return most || 64 * MIB;
  }

  drawAlerts() {
    const { ctx, bbox } = this.plot;
    const worst = new Map(); // column's time -> how bad the worst alert was then
    for (const { severity, times } of this.alerts.values()) {
      for (const at of times) worst.set(at, Math.max(worst.get(at) ?? 0, SEVERITIES.indexOf(severity)));
    }
    for (const [at, rank] of worst) {
      ctx.fillStyle = colour(`alert-${SEVERITIES[rank]}`);
      const left = Math.max(bbox.left, this.plot.valToPos(at, "x", true));
      const right = Math.min(bbox.left + bbox.width, this.plot.valToPos(at + this.width, "x", true));
      if (right > left) ctx.fillRect(Math.round(left), bbox.top, Math.round(right) - Math.round(left), bbox.height);
    }
  }

  drawMarks() {
    const { ctx, bbox } = this.plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    this.drawNames(ctx, bbox, ratio);
    ctx.fillStyle = colour("incident");
    for (const { opened_at: opened, ended_at: ended } of this.incidents.values()) {
      const left = Math.max(bbox.left, this.plot.valToPos(opened, "x", true));
      const right = Math.min(bbox.left + bbox.width, this.plot.valToPos(ended ?? this.end, "x", true));
      if (right > left) ctx.fillRect(left, bbox.top + bbox.height - 4 * ratio, Math.max(right - left, 2 * ratio), 4 * ratio);
    }
    for (const row of this.shown()) this.drawCleanup(ctx, bbox, ratio, row);
    ctx.restore();
  }

  shown() {
    return [...this.cleanups.values()].filter(({ started_at: at }) => at >= this.end - this.span && at <= this.end)
      .sort((one, other) => one.started_at - other.started_at);
  }

  drawCleanup(ctx, bbox, ratio, row) {
    const x = this.plot.valToPos(row.started_at, "x", true), tone = colour(TONES[row.outcome] ?? "none");
    ctx.strokeStyle = ctx.fillStyle = tone;
    ctx.lineWidth = ratio;
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.arc(x, bbox.top - 9 * ratio, RADIUS * ratio, 0, 2 * Math.PI);
    ctx.fill();
    ctx.fillStyle = colour("card");
    ctx.font = `bold ${10 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillText(row.cleanup.charAt(0).toUpperCase(), x, bbox.top - 8.5 * ratio);
  }

  /** What each line is, at its left end; the stronger first where two are too near to name both. */
  drawNames(ctx, bbox, ratio) {
    const taken = [];
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    for (const name of ["critical", "main", "preventive", "limit"]) {
      const value = this.latest(name);
      if (value === null) continue;
      const above = value > this.top();
      const y = above ? bbox.top + 14 * ratio : this.plot.valToPos(value, "y", true) - 2 * ratio;
      if (taken.some((other) => Math.abs(other - y) < 13 * ratio) || (above && name === "limit")) continue;
      taken.push(y);
      const words = `${above ? "↑ " : ""}${name} ${bytes(value)}`;
      const wide = ctx.measureText(words).width;
      ctx.fillStyle = colour("card");
      ctx.globalAlpha = 0.75;
      ctx.fillRect(bbox.left + 4 * ratio, y - 12 * ratio, wide + 6 * ratio, 13 * ratio);
      ctx.globalAlpha = 1;
      ctx.fillStyle = colour(name);
      ctx.fillText(words, bbox.left + 7 * ratio, y);
    }
  }

  /** What is under the cursor, in words; without one, how things are. */
  tell() {
    if (!this.plot || !this.times.length) return;
    const column = this.plot.cursor.left >= 0 ? this.plot.cursor.idx : null;
    const minutes = `${Math.round(this.span / 60)} min`;
    if (column === null || column === undefined) {
      this.say("", this.highest() ? `highest ${bytes(this.highest())} in ${minutes}` : `nothing could be measured in ${minutes}`);
      const lines = LEVELS.filter((name) => this.latest(name) !== null).map((name) => `${name} line ${bytes(this.latest(name))}`);
      this.place.setAttribute("aria-label", [`Memory of ${this.target} in the last ${minutes}: now ${bytes(this.latest("used"))}`,
        `highest ${bytes(this.highest())}`, ...lines, `${this.shown().length} cleanups`].join(", ") + ". Arrow keys read it.");
      return;
    }
    const at = this.times[column];
    const near = Math.max(this.width, (this.span / this.plot.width) * RADIUS);
    const said = [bytes(this.values.used[column])];
    for (const { name, times } of this.alerts.values()) if (times.some((time) => Math.abs(time - at) < this.width / 2)) said.push(`${name} fires`);
    for (const row of this.shown()) {
      if (Math.abs(row.started_at - at) > near) continue;
      said.push(`${row.cleanup} cleanup ${row.outcome}${row.freed_bytes > 0 ? `, freed ${bytes(row.freed_bytes)}` : ""}${row.reason ? ` (${row.reason})` : ""}`);
    }
    this.say(clock(at), ...said);
  }

  say(head, ...words) {
    const text = (head ? [head, ...words] : words).join(" · ");
    if (this.readout.textContent !== text) this.readout.textContent = text;
  }

  leave() { this.plot.setCursor({ left: -10, top: -10 }); }

  /** Left and right go a column, with Shift ten; Page Up and Page Down to the cleanup before and after. */
  key(event) {
    const columns = { ArrowLeft: -1, ArrowRight: 1 }[event.key], marks = { PageUp: -1, PageDown: 1 }[event.key];
    if (event.key === "Escape") return this.leave();
    if (!(columns || marks) || !this.times.length) return;
    event.preventDefault();
    const last = this.times.length - 1, here = this.plot.cursor.left >= 0 ? this.plot.cursor.idx : last;
    let to = here + columns * (event.shiftKey ? 10 : 1);
    if (marks) {
      const places = this.shown().map(({ started_at: at }) => this.times.findIndex((time) => time >= at)).filter((index) => index >= 0);
      to = (marks > 0 ? places.find((index) => index > here) : places.findLast((index) => index < here)) ?? here;
    }
    const at = this.times[Math.min(last, Math.max(0, to))];
    this.plot.setCursor({ left: Math.max(0, this.plot.valToPos(at, "x")), top: 10 });
  }
}
