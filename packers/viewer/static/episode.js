"use strict";
// One episode: panels in step, curves, 3-D, scores, quality, provenance, and the viewer's verdict.
(function () {
  const { el, number, Table, readState, ordered, qualityMark, Panels, Player, Curves, Space } = cuepack;
  const at = (id) => document.getElementById(id);
  const id = new URLSearchParams(location.search).get("id") || "";
  const hash = new URLSearchParams(location.hash.slice(1));
  let player,
    panels,
    table,
    row = null,
    siblings = {};

  const keys = cuepack.help([
    ["space", "play or pause"],
    ["← →", "one frame; with Shift ten"],
    ["Home  End", "first, last frame"],
    ["+  −", "faster, slower"],
    ["1 … 7", "enlarge a panel, or put it back"],
    ["[  ]", "previous, next episode of the list"],
    ["a  r", "accept or reject; again to take it back"],
    ["n", "write a note"],
    ["u", "back to the overview"],
    ["?", "this list"],
  ]);

  function notice(text) {
    at("notices").append(el("p", { class: "notice", text }));
  }

  function facts(box, entries) {
    const list = el("dl", { class: "facts" });
    for (const [name, value] of entries) {
      if (value === null || value === undefined || value === "") continue;
      list.append(el("dt", { text: name }), el("dd", {}, value instanceof Node ? value : String(value)));
    }
    box.append(list);
  }

  // ---- the side column ----
  function showScores(scores) {
    const weights = Object.fromEntries(
      Object.entries(episodeConfig.scoring || {})
        .filter(([name]) => name.startsWith("weight_"))
        .map(([name, value]) => [name.slice(7), value]),
    );
    if (!scores || !Object.keys(scores).length)
      return at("scores").append(el("p", { class: "quiet", text: "This packet has no scores." }));
    at("scores").append(
      el(
        "p",
        { class: "total" },
        el("b", { text: number(scores.score, 3) }),
        el("span", {
          class: "quiet",
          text: scores.weight_missing
            ? ` ${Math.round(100 * scores.weight_missing)} % of the weight could not be told`
            : "",
        }),
      ),
    );
    const list = el("div", { class: "bars" });
    for (const [name, value] of Object.entries(scores)) {
      if (name === "score" || name === "weight_missing") continue;
      const known = typeof value === "number";
      const bar = el("i", { class: known ? "" : "none" });
      if (known) bar.style.setProperty("--value", Math.min(1, Math.max(0, value)));
      list.append(
        el("span", { text: name }),
        bar,
        el("b", { class: "numbers", text: known ? value.toFixed(2) : value === null ? "–" : String(value) }),
        el("small", { class: "quiet", text: weights[name] === undefined ? "" : `× ${weights[name]}` }),
      );
    }
    at("scores").append(list);
  }

  function showQuality(quality, tags) {
    if (tags && tags.length)
      at("quality").append(el("p", { class: "tags" }, ...tags.map((tag) => el("span", { text: tag }))));
    for (const [modality, card] of Object.entries(quality || {})) {
      const head = el(
        "p",
        { class: "modality" },
        el("span", { class: `mark ${card.status}`, text: qualityMark(card.status) }),
        el("b", { text: modality }),
        el("span", { class: "quiet", text: card.status }),
      );
      const body = el("div", { class: "card-of" }, head);
      for (const reason of card.reasons || [])
        body.append(el("p", { class: "reason", text: typeof reason === "string" ? reason : JSON.stringify(reason) }));
      const numbers = Object.entries(card.numbers || {}).filter(
        ([, value]) => value !== null && typeof value !== "object",
      );
      if (numbers.length) {
        const details = el(
          "details",
          { open: numbers.length <= 4 },
          el("summary", { class: "quiet", text: `${numbers.length} numbers` }),
        );
        facts(
          details,
          numbers.map(([name, value]) => [
            name.replaceAll("_", " "),
            typeof value === "number" ? number(value) : value,
          ]),
        );
        body.append(details);
      }
      at("quality").append(body);
    }
    if (!Object.keys(quality || {}).length)
      at("quality").append(el("p", { class: "quiet", text: "This packet has no quality card." }));
  }

  let episodeConfig = {};
  function showProvenance(episode) {
    const source = episode.attributes.source || {};
    facts(at("provenance"), [
      ["episode", episode.episode_id],
      ["dataset", source.dataset],
      ["kind", source.kind],
      ["path", source.path],
      ["camera", source.camera],
      ["frames", `${episode.n_frames} at ${number(episode.fps)} /s, ${episode.size[1]} × ${episode.size[0]}`],
      ["packet", `${(episode.bytes / 1e6).toFixed(2)} MB, sha256 ${String(episode.sha256).slice(0, 12)}…`],
    ]);
    const stages = el(
      "table",
      { class: "stages" },
      el("tr", {}, ...["stage", "backend", "device", "key"].map((text) => el("th", { text }))),
    );
    for (const [name, stage] of Object.entries(episode.stages)) {
      stages.append(
        el(
          "tr",
          {},
          el("td", { text: name }),
          el("td", { text: stage.backend || "–" }),
          el("td", { text: [stage.device, stage.precision].filter(Boolean).join(" ") }),
          el("td", { class: "numbers", title: stage.key, text: String(stage.key || "").slice(0, 8) }),
        ),
      );
    }
    at("provenance").append(el("details", { open: true }, el("summary", { text: "Stages" }), stages));
    at("provenance").append(el("div", { id: "again" }));
    const tree = el("table", { class: "stages" });
    for (const dataset of episode.datasets)
      tree.append(
        el(
          "tr",
          {},
          el("td", { text: dataset.name }),
          el("td", { class: "numbers", text: `${dataset.dtype} ${dataset.shape.join("×")}` }),
          el("td", { class: "numbers", text: `${number(Math.round(dataset.stored_bytes / 1000))} kB` }),
        ),
      );
    at("provenance").append(
      el("details", {}, el("summary", { text: `${episode.datasets.length} datasets` }), tree),
      el(
        "details",
        {},
        el("summary", { text: "Configuration" }),
        el("pre", { text: JSON.stringify(episode.attributes.config, null, 1) }),
      ),
    );
  }

  function showCommand() {
    const command = table.overview.directory
      ? `cuepack rerun ${table.overview.directory} ${/^[\w.-]+$/.test(id) ? id : `'${id.replaceAll("'", `'\\''`)}'`}`
      : null;
    if (command && at("again")) {
      const copy = el("button", {
        class: "plain",
        text: "copy",
        onclick: async () => {
          try {
            await navigator.clipboard.writeText(command);
            copy.textContent = "copied";
          } catch {
            copy.textContent = "select and copy by hand";
          }
        },
      });
      at("again").append(
        el("h3", {}, "Do it again ", copy),
        el("code", { class: "command", id: "rerun", text: command }),
      );
    }
  }

  // ---- the verdict ----
  const accept = el("button", {
    id: "accept",
    text: "✓ accept",
    "aria-pressed": "false",
    onclick: () => judge("accept"),
  });
  const reject = el("button", {
    id: "reject",
    text: "✕ reject",
    "aria-pressed": "false",
    onclick: () => judge("reject"),
  });
  const note = el("textarea", { id: "note", rows: 2, placeholder: "Note (n)", "aria-label": "Note", maxlength: 2000 });
  const saved = el("p", { class: "quiet", id: "saved", "aria-live": "polite" });

  function showVerdict() {
    const verdict = table.get(row, "verdict");
    accept.setAttribute("aria-pressed", verdict === "accept");
    reject.setAttribute("aria-pressed", verdict === "reject");
  }

  async function judge(verdict) {
    if (row === null) return;
    const now = table.get(row, "verdict") || "";
    await save(verdict === now ? "" : (verdict ?? now));
  }

  async function save(verdict) {
    try {
      await cuepack.annotate(table, row, verdict, note.value.trim());
      saved.textContent = table.overview.server
        ? "saved in annotations.csv"
        : "kept in this browser; the overview saves the csv";
    } catch (error) {
      saved.textContent = error.message;
    }
    showVerdict();
  }

  function showStudy() {
    const page = table.overview.studied[id];
    if (!page) return;
    const link = el("a", { href: page, text: "What the models of the study made of this episode" });
    at("notices").append(el("p", { class: "notice" }, link));
  }

  // ---- place in the list, from the overview's state ----
  function showPlace() {
    const list = hash.get("list") || "";
    at("back").href = `index.html${list ? `#${list}` : ""}`;
    const rows = ordered(table, readState(list)).filter((other) => other === row || table.has(other));
    const here = rows.indexOf(row);
    at("place").textContent = here < 0 ? "" : `${number(here + 1)} of ${number(rows.length)}`;
    const to = (other) =>
      other === undefined
        ? null
        : `episode.html?id=${encodeURIComponent(table.get(other, "episode_id"))}${list ? `#list=${encodeURIComponent(list)}` : ""}`;
    siblings = { previous: here < 0 ? null : to(rows[here - 1]), next: here < 0 ? null : to(rows[here + 1]) };
    for (const name of ["previous", "next"]) {
      if (siblings[name]) at(name).href = siblings[name];
      else at(name).removeAttribute("href");
    }
    if (table.compare.has(id)) {
      at("compare").hidden = false;
      at("compare").href =
        `compare.html?id=${encodeURIComponent(id)}&key=${encodeURIComponent(table.key(row))}${location.hash}`;
    }
  }

  function remember(frame) {
    const list = hash.get("list");
    const text = [frame ? `t=${frame}` : "", list ? `list=${encodeURIComponent(list)}` : ""].filter(Boolean).join("&");
    clearTimeout(remember.later);
    remember.later = setTimeout(() => history.replaceState(null, "", `#${text}`), 250);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    if (cuepack.typing(event)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.target.tagName === "BUTTON" && event.key === " ") event.target.blur();
    if (player && player.key(event)) event.preventDefault();
    else if (/^[1-9]$/.test(event.key) && panels) panels.zoomNumber(Number(event.key) - 1);
    else if (event.key === "Escape" && panels) panels.zoom(null);
    else if (event.key === "[" && siblings.previous) location.href = siblings.previous;
    else if (event.key === "]" && siblings.next) location.href = siblings.next;
    else if (event.key === "u") location.href = at("back").href;
    else if (event.key === "a") judge("accept");
    else if (event.key === "r") judge("reject");
    else if (event.key === "n") note.focus();
    else if (event.key === "?") keys.showModal();
    else return;
    event.preventDefault();
  });
  at("keys").addEventListener("click", () => keys.showModal());

  function broken(text) {
    at("title").textContent = id || "no episode named";
    notice(text);
    document.querySelector(".left").hidden = true;
    for (const name of ["scores", "quality", "space", "provenance"]) at(name).hidden = true;
  }

  async function showEpisode(folder) {
    const episode = await cuepack.load(`${folder}episode.js`);
    if (episode.broken) return broken(episode.broken);
    episodeConfig = episode.attributes.config || {};
    document.title = `${episode.language_instruction || episode.episode_id} · cuepack`;
    at("title").textContent = episode.language_instruction || "(no instruction)";
    at("subtitle").textContent = episode.episode_id;
    episode.faults.forEach(notice);
    const damaged = Object.entries(episode.legend).filter(([, legend]) => legend.fault);
    damaged.forEach(([name, legend]) => notice(`${name}: ${legend.fault}`));
    panels = new Panels(at("panels"), episode, folder);
    at("panels").dataset.count = panels.panels.length;
    const curves = new Curves(at("curves"), [episode.series], episode.n_frames, (t) => {
      player.pause();
      player.go(t);
    });
    let space = null;
    if (episode.space) space = new Space(at("space"), episode, panels.points);
    else at("space").hidden = true;
    const shows = [
      (t) => panels.show(t),
      (t) => {
        curves.show(t);
      },
    ];
    // The object's points come with the panels' files.
    if (space)
      shows.push(async (t) => {
        await panels.points.get(Math.floor(t / episode.view.points_frames)).loading;
        if (player.frame === t) space.show(t);
      });
    player = new Player(at("transport"), episode, shows);
    player.changed = remember;
    showScores(episode.attributes.scores);
    showQuality(episode.attributes.quality, episode.attributes.tags);
    showProvenance(episode);
    new ResizeObserver(() => curves.show(player.frame)).observe(at("curves"));
    cuepack.player = player;
    await player.go(Number(hash.get("t")) || 0);
    document.body.classList.add("ready");
  }

  async function showRest() {
    table = new Table(await cuepack.load("data/overview.js"));
    cuepack.recall(table);
    row = table.places.has(id) ? table.places.get(id) : null;
    if (row === null) return;
    showPlace();
    showStudy();
    at("judge").append(el("div", { class: "verdicts" }, accept, reject), note, saved);
    note.value = table.get(row, "note") || "";
    note.addEventListener("change", () => save(table.get(row, "verdict") || ""));
    showVerdict();
    document.body.classList.add("listed");
  }

  async function begin() {
    // Ids that are fit for a folder name, all but strange ones, need no list to be found.
    const plain = /^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}$/.test(id);
    const listed = showRest();
    listed.catch(() => {});
    if (!plain) {
      await listed;
      if (row === null) return broken("No such episode is listed.");
    }
    await showEpisode(plain ? `data/a/${encodeURIComponent(id)}/` : table.folder(row));
    await listed;
    return showCommand();
  }

  begin().catch((error) => (player ? notice(error.message) : broken(`This episode cannot be shown: ${error.message}`)));
})();
