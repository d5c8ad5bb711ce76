"use strict";
// The overview: distributions, filters and a page of cards. Pictures are asked for when a card comes into view.
(function () {
  const { el, svg, number, Table, readState, stateText, filterText, matching, ordered, qualityMark } = cuepack;
  const PAGE = 60;
  const BINS = 28;
  const SUB_SCORES = ["task", "length", "displacement", "mask", "depth"];
  const POLL_MS = 4000;
  const at = (id) => document.getElementById(id);
  let table,
    state,
    rows = [],
    stamp = null;

  const keys = cuepack.help([
    ["/", "search"],
    ["← → ↑ ↓", "go from card to card"],
    ["Enter", "open the episode"],
    ["n  p", "next, previous page"],
    ["a  r", "accept or reject the card in focus; again to take it back"],
    ["Esc", "leave the search; clear all filters"],
    ["?", "this list"],
  ]);

  function commit(change) {
    Object.assign(state, { page: 1 }, change);
    const text = stateText(state);
    // Only the part after "#" changes: that works from disk as well.
    history.replaceState(null, "", text ? `#${text}` : location.pathname.split("/").pop() + location.search || "#");
    show();
  }

  function setFilter(column, filter) {
    const filters = state.filters.filter((other) => other.column !== column);
    commit({ filters: filter ? [...filters, filter] : filters });
  }

  function show() {
    rows = ordered(table, state);
    showCounts();
    showDistributions();
    showFilters();
    showCards();
    at("search").value = state.q;
    const sort = state.sort || "-score";
    at("sort").value = sort.replace(/^-/, "");
    at("direction").textContent = sort.startsWith("-") ? "↓" : "↑";
  }

  function showCounts() {
    const counted = {};
    for (const status of table.values("status")) if (status) counted[status] = (counted[status] || 0) + 1;
    const parts = Object.entries(counted)
      .sort()
      .map(([status, n]) => `${number(n)} ${status}`);
    const shown =
      rows.length === table.n ? `${number(table.n)} episodes` : `${number(rows.length)} of ${number(table.n)} episodes`;
    at("counts").textContent = [shown, ...parts].join(" · ");
  }

  // ---- distributions ----
  function distributionColumns() {
    const first = ["score", ...SUB_SCORES.map((name) => `score_${name}`), "n_frames"];
    return first.filter((name) => table.columns.has(name) && table.values(name).some((value) => value !== null));
  }

  function showDistributions() {
    at("distributions").replaceChildren(...distributionColumns().map(distribution));
  }

  function distribution(name) {
    const values = table.values(name);
    const isScore = name.startsWith("score");
    const all = values.filter((value) => value !== null);
    const low = isScore
      ? 0
      : Math.min(
          ...all.slice(0, 1),
          all.reduce((a, b) => Math.min(a, b), Infinity),
        );
    const high = isScore
      ? 1
      : Math.max(
          all.reduce((a, b) => Math.max(a, b), -Infinity),
          low + 1,
        );
    const bin = (value) => Math.min(BINS - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * BINS)));
    const count = (selected) => {
      const bins = Array.from({ length: BINS }, () => 0);
      for (const row of selected) if (values[row] !== null) bins[bin(values[row])]++;
      return bins;
    };
    const before = count(values.keys()),
      now = count(matching(table, state, name));
    const tallest = Math.max(1, ...before);
    const height = (n) => (n ? Math.max(1.5, 40 * Math.sqrt(n / tallest)) : 0);
    const bars = (bins, kind) =>
      svg("path", {
        class: kind,
        d: bins
          .map((n, i) => (n ? `M${i * 6 + 0.5} 44v-${height(n).toFixed(1)}h5v${height(n).toFixed(1)}z` : ""))
          .join(""),
      });
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${BINS * 6} 46`, preserveAspectRatio: "none", role: "img" },
      bars(before, "all"),
      bars(now, "now"),
    );
    const filter = state.filters.find((other) => other.column === name && other.kind === "range");
    const place = (value) => ((value - low) / (high - low)) * BINS * 6;
    if (filter) {
      const from = place(filter.low ?? low),
        to = place(filter.high ?? high);
      picture.append(svg("rect", { class: "brushed", x: from, y: 0, width: Math.max(1, to - from), height: 46 }));
    }
    const lines = (table.overview.thresholds[name] || []).filter(({ value }) => value >= low && value <= high);
    for (const { value } of lines) {
      picture.append(svg("line", { class: "threshold", x1: place(value), x2: place(value), y1: 0, y2: 46 }));
    }
    const title = el("figcaption", {}, el("span", { text: name.replace(/^score_/, "") }));
    const without = table.n - all.length;
    const thresholdText = lines.map(({ name: label, value }) => `${label} ${number(value)}`).join(" ");
    title.append(
      el("span", {
        class: "quiet",
        title: thresholdText,
        text: thresholdText || (without ? `${number(without)} without` : ""),
      }),
    );
    const figure = el(
      "figure",
      { class: "distribution", "data-column": name },
      title,
      picture,
      el("div", { class: "ends quiet" }, el("span", { text: number(low) }), el("span", { text: number(high) })),
    );
    brushed(picture, (from, to) => {
      const value = (share) => +(low + share * (high - low)).toPrecision(3);
      setFilter(name, to - from < 0.01 ? null : { column: name, kind: "range", low: value(from), high: value(to) });
    });
    return figure;
  }

  // Drag over a distribution to keep a range; a plain click takes the range away.
  function brushed(picture, done) {
    picture.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const box = picture.getBoundingClientRect();
      const share = (e) => Math.min(1, Math.max(0, (e.clientX - box.left) / box.width));
      const from = share(event);
      const mark = svg("rect", { class: "brushed", y: 0, height: 46 });
      picture.append(mark);
      const move = (e) => {
        mark.setAttribute("x", Math.min(from, share(e)) * BINS * 6);
        mark.setAttribute("width", Math.abs(share(e) - from) * BINS * 6);
      };
      const stop = (e) => {
        window.removeEventListener("pointermove", move);
        window.removeEventListener("pointerup", stop);
        done(Math.min(from, share(e)), Math.max(from, share(e)));
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", stop);
    });
  }

  // ---- filters ----
  function countedValues(name) {
    const counted = new Map();
    for (const value of table.values(name)) {
      const text = value === null ? "" : String(value);
      counted.set(text, (counted.get(text) || 0) + 1);
    }
    return [...counted].sort((a, b) => b[1] - a[1]);
  }

  function countedTags() {
    const counted = new Map();
    for (const row of matching(table, { ...state, tags: [] })) {
      for (const tag of table.tags[row]) counted.set(tag, (counted.get(tag) || 0) + 1);
    }
    for (const tag of state.tags) if (!counted.has(tag)) counted.set(tag, 0);
    return [...counted].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  }

  function showFilters() {
    const chips = state.filters.map((filter) =>
      el(
        "button",
        {
          class: "chip on",
          title: "Remove this filter",
          onclick: () => setFilter(filter.column, null),
        },
        filterText(filter)
          .replace(":", " ")
          .replace(/^(\S+) =/, "$1 = ") + " ×",
      ),
    );
    const tags = countedTags();
    const tagChips = tags.slice(0, 14).map(([tag, n]) => {
      const on = state.tags.includes(tag);
      const change = () => commit({ tags: on ? state.tags.filter((other) => other !== tag) : [...state.tags, tag] });
      return el(
        "button",
        { class: on ? "chip on" : "chip", "aria-pressed": on, onclick: change, "data-tag": tag },
        tag,
        el("small", { text: ` ${number(n)}` }),
      );
    });
    const more = tags.slice(14);
    const picker = more.length
      ? el(
          "select",
          {
            "aria-label": "More tags",
            onchange: (e) => e.target.value && commit({ tags: [...state.tags, e.target.value] }),
          },
          el("option", { value: "", text: `${more.length} more tags…` }),
          ...more.map(([tag, n]) => el("option", { value: tag, text: `${tag} (${n})` })),
        )
      : null;
    const add = el(
      "select",
      { id: "add", "aria-label": "Add a filter", onchange: (e) => editor(e.target.value) },
      el("option", { value: "", text: "+ filter by…" }),
      ...[...table.columns.keys()].map((name) => el("option", { value: name, text: name })),
    );
    const clear =
      state.filters.length || state.tags.length || state.q
        ? el("button", { class: "plain", text: "Clear all", onclick: () => commit({ filters: [], tags: [], q: "" }) })
        : null;
    at("filters").replaceChildren(
      ...[add, ...chips, clear, tagChips.length ? el("span", { class: "divider" }) : null, ...tagChips, picker].filter(
        Boolean,
      ),
    );
  }

  function editor(name) {
    if (!name) return;
    const column = table.columns.get(name);
    const form = el("form", { class: "editor" }, el("span", { text: name }));
    const finish = (filter) => setFilter(name, filter);
    if (column.kind === "number") {
      const low = el("input", { type: "number", step: "any", placeholder: "from", "aria-label": `${name} from` });
      const high = el("input", { type: "number", step: "any", placeholder: "to", "aria-label": `${name} to` });
      form.append(low, high);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const value = (input) => (input.value === "" ? null : Number(input.value));
        finish({ column: name, kind: "range", low: value(low), high: value(high) });
      });
    } else {
      const values = countedValues(name);
      if (values.length <= 40) {
        const choice = el(
          "select",
          { "aria-label": name },
          el("option", { value: "", text: "choose…" }),
          ...values.map(([text, n], index) => el("option", { value: index + 1, text: `${text || "(none)"} · ${n}` })),
        );
        choice.addEventListener("change", () => {
          const text = values[choice.value - 1][0];
          finish(text ? { column: name, kind: "is", value: text } : { column: name, kind: "none" });
        });
        form.append(choice);
      } else {
        const part = el("input", { type: "text", placeholder: "contains", "aria-label": `${name} contains` });
        form.append(part);
        form.addEventListener("submit", (event) => {
          event.preventDefault();
          finish(part.value ? { column: name, kind: "has", value: part.value } : null);
        });
      }
    }
    form.append(
      el("button", {
        type: "button",
        class: "plain",
        title: "Rows that have no value here",
        text: "none",
        onclick: () => finish({ column: name, kind: "none" }),
      }),
      el("button", { text: "Apply" }),
    );
    at("add").replaceWith(form);
    form.querySelector("input, select").focus();
  }

  // ---- cards ----
  function showCards() {
    const last = Math.max(1, Math.ceil(rows.length / PAGE));
    state.page = Math.min(state.page, last);
    const from = (state.page - 1) * PAGE;
    const shown = rows.slice(from, from + PAGE);
    at("cards").replaceChildren(...shown.map(card));
    if (!shown.length) {
      at("cards").append(
        el("p", {
          class: "empty",
          text: table.n
            ? "No episode passes these filters."
            : "No episode is listed yet; a running batch fills this page by itself.",
        }),
      );
    }
    const turn = (page, text, label) =>
      el("button", { text, "aria-label": label, disabled: page < 1 || page > last, onclick: () => turnTo(page) });
    at("pages").replaceChildren(
      ...(last > 1
        ? [
            turn(1, "«", "First page"),
            turn(state.page - 1, "‹ previous", "Previous page"),
            el("span", { text: `${number(from + 1)} to ${number(from + shown.length)} of ${number(rows.length)}` }),
            turn(state.page + 1, "next ›", "Next page"),
            turn(last, "»", "Last page"),
          ]
        : []),
    );
  }

  function turnTo(page) {
    commit({ page });
    window.scrollTo(0, 0);
    const first = at("cards").querySelector("a.card");
    if (first) first.focus({ preventScroll: true });
  }

  function card(row) {
    const status = table.get(row, "status") || "listed";
    const id = table.get(row, "episode_id");
    const instruction = table.get(row, "language_instruction");
    const list = stateText({ ...state, page: 1 });
    const link = `episode.html?id=${encodeURIComponent(id)}${list ? `#list=${encodeURIComponent(list)}` : ""}`;
    const body = el(
      "div",
      { class: "about" },
      el("p", {
        class: instruction ? "instruction" : "instruction quiet",
        title: instruction || "",
        text: instruction || "(no instruction)",
      }),
    );
    if (status === "done" || table.get(row, "score") !== null) body.append(scoreLine(row));
    if (table.get(row, "error"))
      body.append(
        el("p", {
          class: "error",
          title: table.get(row, "error"),
          text: `${table.get(row, "stage") || status}: ${table.get(row, "error")}`,
        }),
      );
    body.append(facts(row));
    if (table.tags[row].length)
      body.append(el("p", { class: "tags" }, ...table.tags[row].map((tag) => el("span", { text: tag }))));
    const top = table.has(row) ? thumbnail(row) : el("div", { class: "thumb none" }, el("span", { text: status }));
    const node = el(
      "a",
      {
        class: `card ${status}`,
        href: link,
        "data-row": row,
        "data-id": id,
        "aria-label": `${instruction || id}, ${status}`,
      },
      top,
      body,
    );
    mark(node, row);
    return node;
  }

  function thumbnail(row) {
    const frames = table.overview.thumbnail_frames;
    const picture = el("img", { loading: "lazy", alt: "", draggable: "false", src: `${table.folder(row)}thumb.jpg` });
    picture.style.setProperty("--frames", frames);
    const box = el("div", { class: "thumb" }, picture);
    picture.addEventListener("error", () => box.replaceChildren(el("span", { text: "packet cannot be read" })));
    return box;
  }

  function scoreLine(row) {
    const score = table.get(row, "score");
    const bars = el("span", { class: "subscores" });
    for (const name of SUB_SCORES) {
      if (!table.columns.has(`score_${name}`)) continue;
      const value = table.get(row, `score_${name}`);
      const bar = el("i", { class: value === null ? "none" : "", title: `${name} ${number(value, 2)}` });
      bar.style.setProperty("--value", value === null ? 0 : value);
      bars.append(bar);
    }
    const marks = el("span", { class: "marks" });
    for (const modality of ["masks", "depth", "tracks"]) {
      const verdict = table.get(row, `quality_${modality}`);
      if (verdict)
        marks.append(
          el("span", {
            class: `mark ${verdict}`,
            title: `${modality}: ${verdict}`,
            text: `${qualityMark(verdict)} ${modality}`,
          }),
        );
    }
    return el("div", { class: "scoreline" }, el("b", { title: "score", text: number(score, 2) }), bars, marks);
  }

  function facts(row) {
    const sort = (state.sort || "-score").replace(/^-/, "");
    const known = [`${number(table.get(row, "n_frames"))} frames`];
    if (table.get(row, "camera")) known.push(table.get(row, "camera"));
    if (!["score", "n_frames", "camera", "language_instruction", "status", "episode_id"].includes(sort)) {
      const value = table.get(row, sort);
      known.push(`${sort} ${typeof value === "number" ? number(value) : (value ?? "–")}`);
    }
    return el("p", { class: "facts quiet", title: table.get(row, "episode_id"), text: known.join(" · ") });
  }

  function mark(node, row) {
    const old = node.querySelector(".verdict");
    if (old) old.remove();
    const verdict = table.get(row, "verdict"),
      note = table.get(row, "note");
    if (!verdict && !note) return;
    const sign = verdict === "accept" ? "✓" : verdict === "reject" ? "✕" : "✎";
    node.append(
      el("span", {
        class: `verdict ${verdict || "note"}`,
        title: [verdict, note].filter(Boolean).join(": "),
        text: sign,
      }),
    );
  }

  async function judge(node, verdict) {
    const row = Number(node.dataset.row);
    const next = table.get(row, "verdict") === verdict ? "" : verdict;
    try {
      await cuepack.annotate(table, row, next, table.get(row, "note") || "");
      mark(node, row);
    } catch (error) {
      notice(error.message);
    }
    showSave();
  }

  function showSave() {
    at("save").hidden =
      table.overview.server || (!table.values("verdict").some(Boolean) && !table.values("note").some(Boolean));
  }

  function notice(text) {
    at("notices").append(el("p", { class: "notice", text }));
  }

  // ---- keys ----
  function step(node, key) {
    const cards = [...at("cards").querySelectorAll("a.card")];
    if (!cards.length) return;
    const here = cards.indexOf(node);
    const across = cards.filter((other) => other.offsetTop === cards[0].offsetTop).length;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
    const next = here < 0 ? 0 : here + move;
    if (next >= 0 && next < cards.length) cards[next].focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    if (cuepack.typing(event)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const focused = document.activeElement.closest("a.card");
    if (event.key.startsWith("Arrow")) step(focused, event.key);
    else if (event.key === "/") at("search").focus();
    else if (event.key === "n") turnTo(Math.min(state.page + 1, Math.max(1, Math.ceil(rows.length / PAGE))));
    else if (event.key === "p") turnTo(Math.max(1, state.page - 1));
    else if (event.key === "a" && focused) judge(focused, "accept");
    else if (event.key === "r" && focused) judge(focused, "reject");
    else if (event.key === "?") keys.showModal();
    else if (event.key === "Escape") commit({ filters: [], tags: [], q: "" });
    else return;
    event.preventDefault();
  });

  // ---- start ----
  let typed = 0;
  at("search").addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => commit({ q: event.target.value }), 120);
  });
  at("sort").addEventListener("change", (event) => {
    const numeric = table.columns.get(event.target.value).kind === "number";
    commit({ sort: (numeric ? "-" : "") + event.target.value });
  });
  at("direction").addEventListener("click", () => {
    const sort = state.sort || "-score";
    commit({ sort: sort.startsWith("-") ? sort.slice(1) : `-${sort}` });
  });
  at("keys").addEventListener("click", () => keys.showModal());
  at("save").addEventListener("click", () => {
    const link = el("a", {
      download: "annotations.csv",
      href: `data:text/csv;charset=utf-8,${encodeURIComponent(cuepack.annotationsCsv(table))}`,
    });
    link.click();
  });
  window.addEventListener("hashchange", () => {
    state = readState(location.hash);
    show();
  });

  async function begin() {
    const overview = await cuepack.load("data/overview.js");
    table = new Table(overview);
    cuepack.recall(table);
    document.title = `${overview.title} · cuepack`;
    at("title").textContent = overview.title;
    at("notices").replaceChildren();
    overview.notices.forEach(notice);
    at("sort").replaceChildren(...[...table.columns.keys()].map((name) => el("option", { value: name, text: name })));
    state = readState(location.hash);
    show();
    showSave();
    document.body.classList.add("ready");
  }

  // A running batch changes the manifest: look for that now and then, and only where somebody is looking.
  async function look() {
    if (document.visibilityState === "visible" && !at("filters").querySelector("form")) {
      try {
        const now = await (await fetch("data/stamp")).text();
        if (stamp !== null && now !== stamp) await begin();
        stamp = now;
      } catch {
        // The server was stopped; the page goes on showing what it has.
        return;
      }
    }
    setTimeout(look, POLL_MS);
  }

  begin()
    .then(() => table.overview.server && look())
    .catch((error) => notice(`The list of episodes cannot be loaded: ${error.message}`));
})();
