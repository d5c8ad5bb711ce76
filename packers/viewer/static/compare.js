"use strict";
// Two packets of one episode: panels side by side under one scrubber, curves over each other, differences in numbers.
(function () {
  const { el, number, load, Panels, Player, Curves } = cuepack;
  const at = (id) => document.getElementById(id);
  const id = new URLSearchParams(location.search).get("id") || "";
  let player,
    both = [];

  function notice(text) {
    at("notices").append(el("p", { class: "notice", text }));
  }

  function table(box, heads, lines) {
    box.append(
      el(
        "table",
        { class: "differences" },
        el("tr", {}, ...heads.map((text) => el("th", { text }))),
        ...lines.map((cells) =>
          el(
            "tr",
            {},
            ...cells.map((cell) => el("td", { text: typeof cell === "number" ? number(cell) : (cell ?? "–") })),
          ),
        ),
      ),
    );
  }

  function showDifferences(comparison) {
    table(
      at("numbers"),
      ["", "A", "B", "B − A"],
      comparison.numbers.map((line) => [
        line.name,
        line.a,
        line.b,
        typeof line.a === "number" && typeof line.b === "number" ? +(line.b - line.a).toPrecision(4) : null,
      ]),
    );
    if (comparison.agreement.length) {
      at("numbers").append(el("h3", { text: "Frame by frame" }));
      table(
        at("numbers"),
        ["", "median", "worst", "frame"],
        comparison.agreement.map((line) => [
          `${line.name}${line.units ? `, ${line.units}` : ""}`,
          line.median,
          line.worst,
          line.worst_frame,
        ]),
      );
    }
    comparison.notes.forEach(notice);
    if (comparison.settings.length)
      table(
        at("settings"),
        ["", "A", "B"],
        comparison.settings.map((line) => [line.name, line.a, line.b]),
      );
    else at("settings").append(el("p", { class: "quiet", text: "Same backends, weights and configuration." }));
  }

  async function begin() {
    // The folder of an id that is unfit for one is named in `key`.
    const key = encodeURIComponent(new URLSearchParams(location.search).get("key") || id);
    const [a, b, comparison] = await Promise.all([
      load(`data/a/${key}/episode.js`),
      load(`data/b/${key}/episode.js`),
      load(`data/compare/${key}.js`),
    ]);
    at("title").textContent = a.language_instruction || b.language_instruction || id;
    at("subtitle").textContent = id;
    document.title = `Compare ${id} · cuepack`;
    at("back").href = `episode.html?id=${encodeURIComponent(id)}${location.hash}`;
    for (const [side, episode] of [
      ["a", a],
      ["b", b],
    ]) {
      if (episode.broken) notice(`${side.toUpperCase()}: ${episode.broken}`);
      at(`name-${side}`).textContent = `${side.toUpperCase()}  ${comparison.names[side]}`;
    }
    if (a.broken || b.broken) return;
    both = [
      new Panels(at("panels-a"), a, `data/a/${key}/`, { beside: cuepack.panelNames(b) }),
      new Panels(at("panels-b"), b, `data/b/${key}/`, { beside: cuepack.panelNames(a) }),
    ];
    const n = Math.min(a.n_frames, b.n_frames);
    const curves = new Curves(at("curves"), [a.series, b.series], n, (t) => {
      player.pause();
      player.go(t);
    });
    player = new Player(at("transport"), { ...a, n_frames: n }, [
      ...both.map((panels) => (t) => panels.show(t)),
      (t) => {
        curves.show(t);
      },
    ]);
    cuepack.player = player;
    showDifferences(comparison);
    new ResizeObserver(() => curves.show(player.frame)).observe(at("curves"));
    await player.go(0);
    document.body.classList.add("ready");
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || cuepack.typing(event)) return;
    if (player && player.key(event)) event.preventDefault();
    else if (/^[1-9]$/.test(event.key)) {
      for (const panels of both) panels.zoomNumber(Number(event.key) - 1);
    } else if (event.key === "u") location.href = at("back").href;
  });

  begin().catch((error) => notice(`These packets cannot be compared: ${error.message}`));
})();
