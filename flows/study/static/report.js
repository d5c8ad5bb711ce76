"use strict";
// The overview: what was compared, which cue helps, how sure that is, and the way to every episode.
(function () {
  const { el, number } = cuepack;
  const { curves, forest, percent, verdictClass, finite, read } = charts;
  const data = read();

  function section(id, title, ...children) {
    return el(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      el("h2", { id: `${id}-title`, text: title }),
      ...children,
    );
  }

  function words(value) {
    if (value === null) return "–";
    if (Array.isArray(value)) return value.map(words).join(", ");
    if (typeof value === "object")
      return Object.entries(value)
        .map(([key, one]) => `${key}: ${words(one)}`)
        .join(", ");
    return typeof value === "number" ? number(value) : String(value);
  }

  function facts(values) {
    const pairs = Object.entries(values).map(([key, value]) => {
      const text = words(value);
      // A long text takes the whole width.
      const kind = text.length > 40 ? "long" : null;
      return el("div", { class: kind }, el("dt", { text: key.replaceAll("_", " ") }), el("dd", { text }));
    });
    return el("dl", { class: "facts" }, ...pairs);
  }

  // ---- the table of conditions ----
  function cell(words_, small) {
    return el("td", {}, words_, small ? el("small", { text: small }) : null);
  }

  function conditionRow(row) {
    const error = (name) => cell(number(row.errors[name], 4));
    const interval = finite(row.low) && finite(row.high) ? `${percent(row.low)} … ${percent(row.high)}` : "";
    const runs = row.diverged ? `${row.seeds} (+${row.diverged} diverged)` : String(row.seeds);
    return el(
      "tr",
      {},
      el("th", { class: "text", scope: "row", text: row.name }),
      el("td", { class: "text", text: row.label }),
      el("td", { class: "text" }, el("span", { class: `verdict ${verdictClass(row)}`, text: row.verdict })),
      cell(percent(row.change), interval),
      cell(finite(row.detectable) ? `±${percent(Math.abs(row.detectable)).replace("+", "")}` : "–"),
      ...["teacher_forced", "rolled_out", "copy", "constant"].map(error),
      cell(number(row.copy_ratio, 2)),
      cell(number(row.inverse_dynamics, 3)),
      ...Array.from({ length: 5 }, (_, fifth) => cell(percent(row.by_fifth[fifth]))),
      cell(runs),
    );
  }

  function conditionTable() {
    const heads = [
      ["Condition", "text"],
      ["Head", "text"],
      ["Verdict", "text"],
      ["Change to A"],
      ["Detectable"],
      ["Error, teacher-forced"],
      ["Error, rolled out"],
      ["Copy floor"],
      ["Constant floor"],
      ["Trained / copy"],
      ["Inverse dynamics R²"],
      ...["slowest", "2nd", "3rd", "4th", "fastest"].map((name) => [`${name} fifth`]),
      ["Seeds"],
    ];
    const head = el("tr", {}, ...heads.map(([name, kind]) => el("th", { class: kind, scope: "col", text: name })));
    const body = el("tbody", {}, ...data.conditions.map(conditionRow));
    return el(
      "div",
      { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Conditions" },
      el("table", { id: "conditions" }, el("thead", {}, head), body),
    );
  }

  // ---- probes: one fold a probe, the conditions side by side in it ----
  function rounded(key, value) {
    return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
  }

  function probeFolds() {
    const names = [...new Set(Object.values(data.probes).flatMap((all) => all.map((probe) => probe.name)))];
    return names.map((name, index) => {
      const figures = [];
      for (const [condition, probes] of Object.entries(data.probes)) {
        for (const probe of probes.filter((one) => one.name === name)) {
          const numbers = el(
            "details",
            {},
            el("summary", { text: "numbers" }),
            el("pre", { tabindex: "0", text: JSON.stringify(probe.numbers, rounded, 1) }),
          );
          const image = el("img", {
            src: probe.figure,
            width: probe.size[0],
            height: probe.size[1],
            alt: `${name.replaceAll("_", " ")} of ${condition}. ${probe.caption}`,
            loading: "lazy",
          });
          figures.push(
            el("figure", {}, el("h3", { text: condition }), image, el("figcaption", { text: probe.caption }), numbers),
          );
        }
      }
      return el(
        "details",
        { open: index === 0 },
        el("summary", { text: name.replaceAll("_", " ") }),
        el("div", { class: "probes" }, ...figures),
      );
    });
  }

  // ---- episodes: sorted by any column, narrowed by a tag ----
  const models = [...new Set(data.episodes.flatMap((episode) => Object.keys(episode.errors)))];
  const columns = [
    { name: "Episode", text: true, value: (episode) => episode.id },
    { name: "Instruction", text: true, value: (episode) => episode.instruction },
    { name: "Tags", text: true, value: (episode) => episode.tags.join(" ") },
    { name: "Frames", value: (episode) => episode.frames },
    ...models.map((model) => ({ name: `Error, ${model}`, value: (episode) => episode.errors[model] ?? null })),
  ];
  const state = { column: 0, down: false, tag: null };

  function sorted() {
    const { value } = columns[state.column];
    const sign = state.down ? -1 : 1;
    const rows = data.episodes.filter((episode) => state.tag === null || episode.tags.includes(state.tag));
    // Episodes without a value come last either way.
    return rows.toSorted((a, b) => {
      const x = value(a),
        y = value(b);
      if (x === y) return 0;
      if (x === null || x === "") return 1;
      if (y === null || y === "") return -1;
      return (x < y ? -1 : 1) * sign;
    });
  }

  function episodeRow(episode) {
    const link = episode.link
      ? el("a", { href: episode.link, text: "packet", "aria-label": `Packet of ${episode.id} in the viewer` })
      : null;
    return el(
      "tr",
      { "data-id": episode.id },
      el("td", { class: "text" }, el("a", { href: episode.page, text: episode.id }), link ? " · " : null, link),
      el("td", { class: "text", text: episode.instruction }),
      el("td", { class: "text" }, ...episode.tags.map((tag) => el("span", { class: "tag", text: tag }))),
      el("td", { text: number(episode.frames) }),
      ...models.map((model) => el("td", { text: number(episode.errors[model], 4) })),
    );
  }

  function showEpisodes(body, heads, chips) {
    body.replaceChildren(...sorted().map(episodeRow));
    heads.forEach((head, index) =>
      head.setAttribute("aria-sort", index !== state.column ? "none" : state.down ? "descending" : "ascending"),
    );
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.tag === state.tag));
  }

  function episodeSection() {
    const body = el("tbody");
    const counted = new Map();
    for (const episode of data.episodes) for (const tag of episode.tags) counted.set(tag, (counted.get(tag) || 0) + 1);
    const show = () => showEpisodes(body, heads, chips);
    const chips = [...counted].toSorted().map(([tag, count]) =>
      el("button", {
        "data-tag": tag,
        text: `${tag} · ${count}`,
        onclick: () => {
          state.tag = state.tag === tag ? null : tag;
          show();
        },
      }),
    );
    const heads = columns.map((column, index) =>
      el(
        "th",
        { scope: "col", class: column.text ? "text" : null },
        el("button", {
          text: column.name,
          onclick: () => {
            Object.assign(state, { column: index, down: state.column === index && !state.down });
            show();
          },
        }),
      ),
    );
    show();
    const table = el("table", { id: "episode-list" }, el("thead", {}, el("tr", {}, ...heads)), body);
    return section(
      "episodes",
      `Held-out episodes (${data.episodes.length})`,
      el("div", { class: "chips", role: "group", "aria-label": "Tags" }, ...chips),
      el("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Episodes" }, table),
    );
  }

  function curveCharts() {
    return Object.entries(data.curves).map(([title, runs]) => {
      const given = runs.map((run) => ({ name: run.name, group: run.group, x: run.epochs, y: run.values }));
      return curves(title, given, { x: "epoch", y: "value", whole: true }).figure;
    });
  }

  const parts = ["verdicts", "compared", "curves", "probes", "episodes"];
  const nav = el("nav", { "aria-label": "Parts" }, ...parts.map((id) => el("a", { href: `#${id}`, text: id })));
  const main = el("main", {}, ...data.warnings.map((text) => el("p", { class: "warning", role: "note", text })));
  main.append(
    section(
      "verdicts",
      "Which cue helps",
      forest(data.conditions),
      el("p", {
        class: "quiet",
        text: "Change of the held-out error to A, with its interval; the grey bar is what this study could not have told from no change. Errors are divided by the variance of the held-out latents.",
      }),
      conditionTable(),
      el("div", { class: "method quiet" }, ...data.method.map((text) => el("p", { text }))),
    ),
    section("compared", "What was compared", facts(data.counts), el("h3", { text: "Settings" }), facts(data.settings)),
    section("curves", "Learning curves", el("div", { class: "charts" }, ...curveCharts())),
    section("probes", "What the models learned", ...probeFolds()),
    episodeSection(),
  );
  document.body.append(el("header", {}, el("h1", { text: data.title }), nav), main);
  // What is asked for after "#" exists only now.
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  document.body.classList.add("ready");
})();
