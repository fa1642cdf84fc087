// The buttons: each asks first, then sends an order with the token. The token is kept by this tab alone.
const KEPT = "rag-sidecar.token";
const PAUSES = { "15m": "15 minutes", "1h": "1 hour", "8h": "8 hours", "": "until somebody resumes" };
const WISH = "10s"; // for how long an order waits for what may stand against it
const CLEANUPS = { light: "light", standard: "standard", aggressive: "aggressive" };
const STAGES = { asked: "Asked.", begun: "Begun.", delivered: "Delivered; it works on it.", answered: "Done; measuring what it freed." };

const WORDS = {
  cleanup: { title: (name) => `Clean up ${name}?`, go: "Clean up", ask: "Level", options: CLEANUPS, chosen: "standard",
    says: "Asks the program to free memory now. From here that is done only while one of its alerts asks for a cleanup, and makes it a stronger one; without an alert:",
    command: (name) => `rag-sidecar cleanup --target ${name}` },
  pause: { title: (name) => `Pause ${name}?`, go: "Pause", ask: "For", options: PAUSES, chosen: "1h",
    says: "Nothing is done to it unasked any more. It is still watched, and alerts are still sent. On its machine:",
    command: (name) => `rag-sidecar pause --target ${name}` },
  resume: { title: (name) => `Resume ${name}?`, go: "Resume", says: "From now on it is acted on again. On its machine:",
    command: (name) => `rag-sidecar resume --target ${name}` },
  unpark: { title: (name) => `Try ${name} again?`, go: "Try again", says: "Cleanups that did not help are tried again. On its machine:",
    command: (name) => `rag-sidecar unpark --target ${name}` },
};

/** Makes the buttons and the one dialog. `able`: the sidecar has a token, so that orders over HTTP are taken. */
export class Orders {
  constructor(able, make, bytes, done) {
    Object.assign(this, { able, make, bytes, done });
    this.dialog = make("dialog");
    this.dialog.setAttribute("aria-labelledby", "ask-title");
    document.body.append(this.dialog);
  }

  /** The buttons of a card; `renew` shows those that fit its state. */
  buttons(card) {
    const button = (order, text) => {
      const made = this.make("button", { type: "button", textContent: text });
      made.dataset.order = order;
      made.addEventListener("click", () => this.ask(order, card.dataset.target));
      return made;
    };
    const [cleanup, pause, resume, unpark] = [button("cleanup", "Clean up…"), button("pause", "Pause…"), button("resume", "Resume…"), button("unpark", "Try again…")];
    card.querySelector("[data-orders]").replaceChildren(this.make("div", { className: "orders" }, cleanup, pause, resume, unpark));
    const renew = () => {
      const paused = card.querySelector("[data-paused]") !== null;
      pause.hidden = paused;
      resume.hidden = !paused;
      unpark.hidden = card.querySelector("[data-parked]") === null;
    };
    renew();
    return { renew };
  }

  ask(order, target) {
    const { make } = this, words = WORDS[order];
    const title = make("h2", { id: "ask-title", textContent: words.title(target) });
    const command = make("pre", { textContent: words.command(/^[\w.:-]+$/.test(target) ? target : "NAME") });
    const close = make("button", { type: "button", textContent: this.able ? "Cancel" : "Close" });
    close.addEventListener("click", () => this.dialog.close());
    if (!this.able) {
      this.dialog.replaceChildren(title, make("p", { textContent: "No token is configured for this sidecar, so nothing can be changed from here. To allow it, write a token of your own into a file of mode 0600, name it in sidecar.yml, and start the sidecar again:" }),
        make("pre", { textContent: "web: {token_file: /run/secrets/rag-sidecar}" }),
        make("p", { textContent: "On its machine no token is needed:" }), command, make("menu", {}, close));
      return this.dialog.showModal();
    }
    const choice = words.options && this.choice(words);
    const token = make("input", { type: "password", autocomplete: "off", spellcheck: false, required: true, value: sessionStorage.getItem(KEPT) ?? "" });
    const field = make("label", {}, "Token of this sidecar, kept until you close this tab", token);
    field.hidden = token.value !== "";
    const answer = make("p", { className: "answer plain" });
    answer.setAttribute("role", "status");
    const go = make("button", { type: "submit", className: "first", textContent: words.go });
    const form = make("form", { noValidate: true }, title, make("p", { textContent: words.says }), command,
      ...(choice ? [choice.label] : []), field, answer, make("menu", {}, close, go));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!token.value) return token.focus();
      go.disabled = true;
      const { ok, said, refused } = await this.send(order, target, choice?.select.value, token.value, (stage) => { answer.textContent = stage; });
      if (refused) sessionStorage.removeItem(KEPT); else sessionStorage.setItem(KEPT, token.value);
      field.hidden = !refused;
      answer.textContent = said;
      answer.className = `answer ${ok ? "good" : "bad"}`;
      go.disabled = false;
      go.hidden = ok;
      if (refused) token.select();
      else if (ok) { close.textContent = "Close"; close.focus(); }
      this.done();
    });
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    (field.hidden ? (choice?.select ?? go) : token).focus();
  }

  choice({ ask, options, chosen }) {
    const select = this.make("select", {}, ...Object.entries(options).map(([value, text]) => this.make("option", { value, textContent: text, selected: value === chosen })));
    return { select, label: this.make("label", {}, ask, select) };
  }

  /** Send an order: whether it was carried out, what to say, and whether the token was refused. */
  async send(order, target, chosen, token, tell) {
    const body = { target, ...(order === "cleanup" ? { level: chosen, ttl: WISH } : {}), ...(order === "pause" && chosen ? { for: chosen } : {}) };
    tell("Asked; waiting for the answer.");
    try {
      const answer = await fetch(`api/v1/${order}${order === "cleanup" ? "?wait=1" : ""}`, { method: "POST", body: JSON.stringify(body),
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` } });
      if (!answer.ok) {
        const { error } = await answer.json();
        return { ok: false, refused: answer.status === 401, said: `${error.charAt(0).toUpperCase()}${error.slice(1)}.` };
      }
      if (order !== "cleanup") return { ok: true, said: { pause: "Paused.", resume: "Resumed.", unpark: "It is tried again." }[order] };
      return this.followed(await this.lines(answer, tell));
    } catch (error) {
      if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error;
      return { ok: false, said: "The sidecar did not answer. What has become of it, the list of cleanups will tell." };
    }
  }

  /** Tell the stages of a cleanup as they come; its last row. */
  async lines(answer, tell) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", row = {};
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) {
        const { stage, action } = JSON.parse(line);
        row = action;
        if (STAGES[stage]) tell(STAGES[stage]);
      }
    }
    return row;
  }

  followed(row) {
    const ok = row.outcome === "effective" || row.outcome === "dry_run";
    const freed = row.freed_bytes === null || row.freed_bytes === undefined ? "" : `, ${row.freed_bytes < 0 ? "grew by" : "freed"} ${this.bytes(Math.abs(row.freed_bytes))}`;
    return { ok, said: `${row.outcome}${freed}${row.reason ? ` (${row.reason})` : ""}.` };
  }
}
