"use strict";
// One held-out episode: the truth, a world that stands still, and the nearest frame to what each model saw coming.
(function () {
  const { el, number } = cuepack;
  const data = charts.read();
  const models = Object.keys(data.retrieved);
  const KINDS = [
    ["global", "Nearest frame of all episodes"],
    ["same", "Nearest frame of this episode"],
  ];
  const PLAY_MS = 200;
  const images = {};
  let row = Math.min(data.start, data.frames - 1),
    playing = null;

  // What a panel shows at a row: [sheets, index], or null where nothing was predicted.
  const truth = (at) => ["episode", at];
  const still = (at) => ["episode", Math.min(at, data.start - 1)];
  function found(model, kind) {
    return (at) => {
      if (at < data.start) return truth(at);
      const index = data.retrieved[model][kind][at - data.start];
      return index === undefined ? null : [kind === "global" ? "bank" : "episode", index];
    };
  }

  function panel(name, title, source, errors) {
    const [width, height] = data.sheets.episode.size;
    const canvas = el("canvas", { width, height, role: "img", "data-panel": name });
    const caption = el("span");
    const figure = el("figure", {}, canvas, el("figcaption", {}, el("b", { text: title }), caption));
    return { figure, canvas, caption, title, source, errors };
  }

  const first = [
    panel("truth", "Truth", truth, null),
    panel("static", "Static: the last given frame", still, data.errors[data.static]),
  ];
  const rows = KINDS.map(([kind, title]) => ({
    title,
    panels: models
      .filter((model) => data.retrieved[model][kind])
      .map((model) => panel(`${kind} ${model}`, model, found(model, kind), data.errors[model])),
  })).filter((line) => line.panels.length);
  const panels = [...first, ...rows.flatMap((line) => line.panels)];

  function draw(one) {
    const shown = one.source(row);
    const given = row < data.start;
    const context = one.canvas.getContext("2d");
    context.clearRect(0, 0, one.canvas.width, one.canvas.height);
    one.canvas.dataset.row = row;
    one.canvas.dataset.shown = shown ? shown.join(" ") : "";
    one.figure.classList.toggle("given", given);
    const error = one.errors?.[row - data.start];
    const parts = [];
    if (given) parts.push("given");
    else if (!shown) parts.push("not predicted");
    else if (shown[0] === "episode") parts.push(`frame ${shown[1]}`);
    if (!given && error !== null && error !== undefined) parts.push(`error ${number(error, 3)}`);
    one.caption.textContent = parts.join(" · ");
    one.canvas.setAttribute("aria-label", `${one.title}, frame ${row}: ${parts.join(", ")}`);
    if (!shown) return;
    const sheets = data.sheets[shown[0]];
    const image = images[shown[0]][Math.floor(shown[1] / sheets.per_sheet)];
    const cell = shown[1] % sheets.per_sheet;
    const x = (cell % sheets.columns) * sheets.stride[0],
      y = Math.floor(cell / sheets.columns) * sheets.stride[1];
    context.drawImage(image, x, y, ...sheets.size, 0, 0, one.canvas.width, one.canvas.height);
  }

  const scrubber = el("input", {
    type: "range",
    id: "scrubber",
    min: 0,
    max: data.frames - 1,
    value: row,
    "aria-label": "Frame",
    oninput: () => go(Number(scrubber.value)),
  });
  const place = el("output", { for: "scrubber" });
  const play = el("button", { id: "play", text: "Play", onclick: toggle });
  const chart = errorChart();

  function go(to) {
    row = Math.max(0, Math.min(data.frames - 1, to));
    scrubber.value = row;
    const phase = row < data.start ? "given" : `${row - data.start + 1} ahead`;
    place.textContent = `${row} / ${data.frames - 1} · ${phase}`;
    scrubber.setAttribute("aria-valuetext", place.textContent);
    panels.forEach(draw);
    chart.move(row);
  }

  function toggle() {
    if (playing) clearInterval(playing);
    else if (row === data.frames - 1) go(0);
    playing = playing ? null : setInterval(() => (row < data.frames - 1 ? go(row + 1) : toggle()), PLAY_MS);
    play.textContent = playing ? "Pause" : "Play";
  }

  function errorChart() {
    const given = Object.entries(data.errors).map(([name, values]) => ({
      name,
      group: name,
      x: values.map((_, at) => data.start + at),
      y: values,
    }));
    return charts.curves("Error of what was predicted", given, { x: "frame", y: "error / variance", whole: true });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: row - 1, ArrowRight: row + 1, Home: 0, End: data.frames - 1 };
    if (event.key in steps) go(steps[event.key]);
    // On a button the space bar presses that button.
    else if (event.key === " " && !/^(BUTTON|A)$/.test(event.target.tagName)) toggle();
    else return;
    event.preventDefault();
  });

  async function load(name) {
    const sheets = data.sheets[name];
    images[name] = await Promise.all(
      (sheets ? sheets.files : []).map(async (path) => {
        const image = new Image();
        image.src = `../${path}`;
        await image.decode();
        return image;
      }),
    );
  }

  function line(title, ...shown) {
    return el(
      "div",
      { class: "row" },
      el("h3", { text: title }),
      el("div", { class: "rolls" }, ...shown.map((one) => one.figure)),
    );
  }

  const nav = el(
    "nav",
    { "aria-label": "Episodes" },
    el("a", { href: "../index.html#episodes", text: "all episodes" }),
    data.previous ? el("a", { href: data.previous, text: "‹ previous" }) : null,
    data.next ? el("a", { href: data.next, text: "next ›" }) : null,
    data.link ? el("a", { href: data.link, text: "packet in the viewer" }) : null,
  );
  const about = el(
    "p",
    { class: "quiet" },
    data.instruction,
    " ",
    ...data.tags.map((tag) => el("span", { class: "tag", text: tag })),
  );
  document.body.append(
    el("header", {}, el("h1", { text: data.id }), nav, about),
    el(
      "main",
      {},
      el("section", { class: "transport", "aria-label": "Player" }, play, scrubber, place),
      el(
        "section",
        { id: "rolls", "aria-label": "Frames" },
        line("What happened", ...first),
        ...rows.map((one) => line(one.title, ...one.panels)),
      ),
      el("section", { class: "charts", "aria-label": "Error" }, chart.figure),
      el("p", {
        class: "quiet",
        text: `The first ${data.start} frames were given (dashed borders). From there each model predicts on from its own predictions; shown is the frame whose latent is nearest to the predicted one. Arrow keys step, space plays.`,
      }),
    ),
  );
  Promise.all(["episode", "bank"].map(load)).then(() => {
    go(row);
    document.body.classList.add("ready");
  });
})();
