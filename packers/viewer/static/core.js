"use strict";
// What all pages share. Data arrive as scripts, because pages opened from disk may not fetch().
// oxlint-disable-next-line no-unused-vars -- the other scripts of a page take it from here
var cuepack = (function () {
  // Every text goes through textContent or an attribute: instructions and names never become HTML.
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "text") node.textContent = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const SVG = "http://www.w3.org/2000/svg";
  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function receive(payload) {
    document.currentScript.payload = payload;
  }

  function load(path) {
    return new Promise((resolve, reject) => {
      const script = el("script", { src: path });
      script.onload = () => {
        script.remove();
        if (script.payload === undefined) reject(new Error(`${path} holds no data`));
        else resolve(script.payload);
      };
      script.onerror = () => {
        script.remove();
        reject(new Error(`${path} cannot be loaded`));
      };
      document.head.append(script);
    });
  }

  function bytes(base64) {
    const text = atob(base64);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
    return found;
  }

  function number(value, digits) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    if (digits !== undefined) return value.toFixed(digits);
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
  }

  // ---- the manifest as a table ----
  class Table {
    constructor(overview) {
      this.overview = overview;
      this.n = overview.n;
      this.columns = new Map();
      for (const column of overview.columns) {
        const values = column.codes
          ? column.codes.map((code) => (code < 0 ? null : column.texts[code]))
          : column.values;
        this.columns.set(column.name, { name: column.name, kind: column.kind, values });
      }
      this.tags = this.values("tags").map((text) => (text ? text.split(";") : []));
      this.places = new Map(this.values("episode_id").map((id, row) => [id, row]));
      this.compare = new Set(overview.compare);
    }
    values(name) {
      const column = this.columns.get(name);
      return column ? column.values : Array.from({ length: this.n }, () => null);
    }
    get(row, name) {
      const column = this.columns.get(name);
      return column ? column.values[row] : null;
    }
    key(row) {
      return this.overview.keys[row] || this.get(row, "episode_id");
    }
    folder(row, side) {
      return `data/${side || "a"}/${encodeURIComponent(this.key(row))}/`;
    }
    has(row) {
      return Boolean(this.get(row, "packet"));
    }
    annotate(row, verdict, note) {
      this.columns.get("verdict").values[row] = verdict || null;
      this.columns.get("note").values[row] = note || null;
    }
  }

  // ---- which rows are shown, and in what order; the state lives in the address, so a view can be shared ----
  // q: free text; tag: tags that all must be there; sort: column, "-" first for descending; page: from 1;
  // f: column:low..high | column:=text | column:~part | column:none, any number of them
  function readState(text) {
    const given = new URLSearchParams(text.replace(/^#/, ""));
    return {
      q: given.get("q") || "",
      tags: (given.get("tag") || "").split(",").filter(Boolean),
      sort: given.get("sort") || "",
      page: Math.max(1, parseInt(given.get("page") || "1", 10) || 1),
      filters: given.getAll("f").map(readFilter).filter(Boolean),
    };
  }

  function readFilter(text) {
    const at = text.indexOf(":");
    if (at < 1) return null;
    const column = text.slice(0, at),
      rest = text.slice(at + 1);
    if (rest === "none") return { column, kind: "none" };
    if (rest.startsWith("=")) return { column, kind: "is", value: rest.slice(1) };
    if (rest.startsWith("~")) return { column, kind: "has", value: rest.slice(1) };
    const ends = rest.split("..");
    if (ends.length !== 2) return null;
    const [low, high] = ends.map((end) => (end === "" ? null : Number(end)));
    return Number.isNaN(low) || Number.isNaN(high) ? null : { column, kind: "range", low, high };
  }

  function filterText(filter) {
    const { column, kind } = filter;
    if (kind === "none") return `${column}:none`;
    if (kind === "is") return `${column}:=${filter.value}`;
    if (kind === "has") return `${column}:~${filter.value}`;
    return `${column}:${filter.low ?? ""}..${filter.high ?? ""}`;
  }

  function stateText(state) {
    const given = new URLSearchParams();
    if (state.q) given.set("q", state.q);
    if (state.tags.length) given.set("tag", state.tags.join(","));
    if (state.sort) given.set("sort", state.sort);
    for (const filter of state.filters) given.append("f", filterText(filter));
    if (state.page > 1) given.set("page", state.page);
    return given.toString();
  }

  function passes(table, filter) {
    const values = table.values(filter.column);
    if (filter.kind === "none") return (row) => values[row] === null || values[row] === "";
    if (filter.kind === "is") return (row) => String(values[row] ?? "") === filter.value;
    if (filter.kind === "has") {
      const part = filter.value.toLowerCase();
      return (row) =>
        String(values[row] ?? "")
          .toLowerCase()
          .includes(part);
    }
    const low = filter.low ?? -Infinity,
      high = filter.high ?? Infinity;
    return (row) => values[row] !== null && values[row] >= low && values[row] <= high;
  }

  const SEARCHED = ["language_instruction", "episode_id", "tags", "camera", "error", "note", "status"];

  function matching(table, state, but) {
    const tests = state.filters.filter((filter) => filter.column !== but).map((filter) => passes(table, filter));
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const searched = SEARCHED.map((name) => table.values(name));
    const found = [];
    for (let row = 0; row < table.n; row++) {
      if (!state.tags.every((tag) => table.tags[row].includes(tag))) continue;
      if (!tests.every((test) => test(row))) continue;
      if (words.length) {
        const text = searched
          .map((values) => values[row] ?? "")
          .join("\n")
          .toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      found.push(row);
    }
    return found;
  }

  function ordered(table, state) {
    const rows = matching(table, state);
    const sort = state.sort || (table.columns.has("score") ? "-score" : "episode_id");
    const down = sort.startsWith("-"),
      values = table.values(down ? sort.slice(1) : sort);
    const sign = down ? -1 : 1;
    // Rows without a value come last either way; equal ones keep the manifest's order.
    return rows.sort((a, b) => {
      const x = values[a],
        y = values[b];
      if (x === y) return a - b;
      if (x === null) return 1;
      if (y === null) return -1;
      return (x < y ? -1 : 1) * sign;
    });
  }

  // ---- annotations: kept by the server, or in this browser where there is none ----
  function storageName(overview) {
    // Two exports may have one title, and pages from disk share what a browser keeps.
    return `cuepack annotations of ${overview.site || overview.title}`;
  }

  function recall(table) {
    if (table.overview.server) return;
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(storageName(table.overview)) || "{}");
    } catch {
      return;
    }
    for (const [id, { verdict, note }] of Object.entries(kept)) {
      if (table.places.has(id)) table.annotate(table.places.get(id), verdict, note);
    }
  }

  async function save(overview, id, verdict, note) {
    if (overview.server) {
      const answer = await fetch("annotations", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ episode_id: id, verdict, note }),
      });
      if (!answer.ok) throw new Error(`not saved: ${(await answer.text()).slice(0, 200)}`);
    } else {
      const kept = JSON.parse(localStorage.getItem(storageName(overview)) || "{}");
      kept[id] = { verdict, note };
      localStorage.setItem(storageName(overview), JSON.stringify(kept));
    }
  }

  // The table changes at once, so that a note written meanwhile goes with the new verdict; saves go one by one.
  let saving = Promise.resolve();
  function annotate(table, row, verdict, note) {
    const before = [table.get(row, "verdict"), table.get(row, "note")];
    table.annotate(row, verdict, note);
    const saved = saving
      .then(() => save(table.overview, table.get(row, "episode_id"), verdict, note))
      .catch((error) => {
        table.annotate(row, ...before);
        throw error;
      });
    saving = saved.catch(() => {});
    return saved;
  }

  function annotationsCsv(table) {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    const lines = ["episode_id,verdict,note"];
    for (let row = 0; row < table.n; row++) {
      const verdict = table.get(row, "verdict") || "",
        note = table.get(row, "note") || "";
      if (verdict || note) lines.push([table.get(row, "episode_id"), verdict, note].map(quoted).join(","));
    }
    return lines.join("\n") + "\n";
  }

  // ---- marks: shape and colour both tell, so that colour is never needed ----
  const QUALITY = { pass: "●", warn: "▲", fail: "✕", absent: "–" };
  function qualityMark(status) {
    return QUALITY[status] || "?";
  }

  function typing(event) {
    return /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "range";
  }

  function help(keys) {
    const dialog = el("dialog", { class: "help" }, el("h2", { text: "Keys" }));
    const list = el("dl");
    for (const [key, what] of keys) list.append(el("dt", {}, el("kbd", { text: key })), el("dd", { text: what }));
    dialog.append(list, el("form", { method: "dialog" }, el("button", { text: "Close" })));
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close();
    });
    document.body.append(dialog);
    return dialog;
  }

  return {
    el,
    svg,
    receive,
    load,
    bytes,
    number,
    Table,
    readState,
    stateText,
    filterText,
    matching,
    ordered,
    recall,
    annotate,
    annotationsCsv,
    qualityMark,
    typing,
    help,
  };
})();
