"use strict";
// What all packets hold together: the tables of `cuepack stats`.
(function () {
  const { el, number, load } = cuepack;
  const at = (id) => document.getElementById(id);
  const SHOWN = ["count", "mean", "std", "minimum", "q01", "q50", "q99", "maximum"];

  function table(title, heads, lines) {
    if (!lines.length) return;
    const row = (kind, cells) =>
      el("tr", {}, ...cells.map((cell) => el(kind, { text: typeof cell === "string" ? cell : number(cell) })));
    at("tables").append(
      el("h3", { text: title }),
      el("table", { class: "differences" }, row("th", heads), ...lines.map((cells) => row("td", cells))),
    );
  }

  const share = (count, whole) => `${((100 * count) / whole).toFixed(1)} %`;

  function showCosts({ head, lines, frames, device_s: deviceSeconds }) {
    const perFrame = (1000 * deviceSeconds) / frames;
    const device = deviceSeconds ? `, ${perFrame.toFixed(1)} device-seconds per 1,000 frames` : "";
    table(`What the stages cost, ${number(frames)} frames${device}`, head, lines);
  }

  function show({ title, stats, left_out: leftOut, costs }) {
    document.title = `Statistics · ${title}`;
    at("title").textContent = `Statistics of ${title}`;
    for (const text of leftOut) at("notices").append(el("p", { class: "notice", text }));
    if (stats) showStatistics(stats);
    if (costs) showCosts(costs);
  }

  function showStatistics(stats) {
    const kb = stats.bytes / stats.frames / 1e3;
    at("counts").textContent =
      `${number(stats.episodes)} episodes, ${number(stats.frames)} frames, ${stats.hours.toFixed(2)} h, ` +
      `${(stats.bytes / 1e9).toFixed(2)} GB (${kb.toFixed(0)} kB a frame), ${number(stats.tasks)} tasks`;
    const [fewest, median, most] = stats.lengths;
    table("Frames an episode", ["fewest", "median", "most"], [[fewest, median, most]]);
    for (const [name, source] of Object.entries(stats.sources)) {
      const columns = Object.entries(source.columns).flatMap(([dataset, found]) =>
        found.map((column, index) => [`${dataset} ${index}`, ...SHOWN.map((key) => column[key])]),
      );
      const left = Object.entries(source.columns_left_out).map(([dataset, count]) => [
        `${dataset}: ${number(count)} more columns, not listed`,
      ]);
      const about = `${number(source.episodes)} episodes, ${source.hours.toFixed(2)} h, ${source.fps.join(", ")} frames/s`;
      table(`${name}: ${about}`, ["", ...SHOWN], columns.length ? [...columns, ...left] : [["no action and no state"]]);
    }
    const counted = (counts) =>
      Object.entries(counts).map(([name, count]) => [name, count, share(count, stats.episodes)]);
    table("Tags", ["", "episodes", "share"], counted(stats.tags));
    for (const [modality, counts] of Object.entries(stats.quality))
      table(`Quality of ${modality}`, ["", "episodes", "share"], counted(counts));
    table("Coverage", ["dataset", "episodes", "share"], counted(stats.coverage));
  }

  load("data/stats.js").then(show, (error) => at("notices").append(el("p", { class: "notice", text: error.message })));
})();
