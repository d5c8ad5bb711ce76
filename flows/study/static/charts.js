"use strict";
// Charts of both pages. Colour never tells alone: curves differ in dashes, verdicts are words too.
// oxlint-disable-next-line no-unused-vars -- the other scripts of a page take it from here
var charts = (function () {
  const { el, svg, number } = cuepack;
  const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
  const WIDTH = 640,
    HEIGHT = 300,
    LEFT = 58,
    RIGHT = 12,
    TOP = 12,
    BOTTOM = 40;

  // Round numbers from low to high; at least `least` apart.
  function ticks(low, high, count, least) {
    const raw = Math.max(least || 0, (high - low) / count) || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= raw * (1 - 1e-9));
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) found.push(i * step || 0);
    return found;
  }

  function text(x, y, words, attributes) {
    const node = svg("text", { x, y, ...attributes });
    node.textContent = words;
    return node;
  }

  function finite(value) {
    return value !== null && value !== undefined;
  }

  // curves: [{name, group, x: [...], y: [... or null]}]; those of one group share a colour and a line of the legend.
  // Returns the figure and a function that moves a vertical line to an x, or takes it away (null).
  function curves(title, given, labels) {
    const groups = [...new Set(given.map((one) => one.group))];
    const xs = given.flatMap((one) => one.x);
    const ys = given.flatMap((one) => one.y).filter(finite);
    const figure = el("figure", {}, el("h3", { text: title }));
    if (!ys.length) {
      figure.append(el("p", { class: "quiet", text: "No value was measured." }));
      return { figure, move: () => {} };
    }
    const least = Math.min(...ys),
      most = Math.max(...ys);
    // One run that went astray would press all others flat.
    const logarithmic = least > 0 && most / least > 30;
    const scale = logarithmic ? Math.log10 : (value) => value;
    const low = logarithmic ? scale(least) : Math.min(0, least),
      high = scale(most) + (scale(most) - low || 1) * 0.04;
    const first = Math.min(...xs),
      last = Math.max(...xs, first + 1e-9);
    const px = (x) => LEFT + ((x - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
    const py = (y) => HEIGHT - BOTTOM - ((scale(y) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const summary = `${title}: ${groups.join(", ")}; ${labels.x} ${number(first)} to ${number(last)}, ${labels.y} ${number(least)} to ${number(most)}`;
    const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary });
    for (const at of ticks(low, high, 5)) {
      const y = HEIGHT - BOTTOM - ((at - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
      plot.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
      plot.append(text(LEFT - 6, y + 4, number(logarithmic ? 10 ** at : at), { class: "axis", "text-anchor": "end" }));
    }
    for (const at of ticks(first, last, 8, labels.whole ? 1 : 0))
      plot.append(text(px(at), HEIGHT - BOTTOM + 16, number(at), { class: "axis", "text-anchor": "middle" }));
    const middle = (LEFT + WIDTH - RIGHT) / 2;
    plot.append(text(middle, HEIGHT - 6, labels.x, { class: "axis", "text-anchor": "middle" }));
    plot.append(
      text(14, HEIGHT / 2, labels.y, {
        class: "axis",
        "text-anchor": "middle",
        transform: `rotate(-90 14 ${HEIGHT / 2})`,
      }),
    );
    for (const one of given) {
      const index = groups.indexOf(one.group);
      let path = "",
        pen = "M";
      one.x.forEach((x, i) => {
        if (!finite(one.y[i])) return void (pen = "M");
        path += `${pen}${px(x).toFixed(1)} ${py(one.y[i]).toFixed(1)}`;
        pen = "L";
      });
      const drawn = svg("path", { class: `curve c${index % 7}`, d: path, "stroke-dasharray": DASHES[index % 4] });
      const name = svg("title", {});
      name.textContent = one.name;
      drawn.append(name);
      plot.append(drawn);
    }
    const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    plot.append(cursor);
    figure.append(plot, legend(groups));
    function move(x) {
      cursor.setAttribute("visibility", x === null || x < first || x > last ? "hidden" : "visible");
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, px(x ?? first));
    }
    return { figure, move };
  }

  function legend(groups) {
    const line = (index) =>
      svg(
        "svg",
        { viewBox: "0 0 26 8", "aria-hidden": "true" },
        svg("path", { class: `curve c${index % 7}`, d: "M0 4H26", "stroke-dasharray": DASHES[index % 4] }),
      );
    return el("p", { class: "legend" }, ...groups.map((name, index) => el("span", {}, line(index), name)));
  }

  function percent(value) {
    if (!finite(value)) return "–";
    const size = Math.abs(value * 100).toFixed(1);
    return `${Number(size) === 0 ? "" : value > 0 ? "+" : "−"}${size} %`;
  }

  function verdictClass(row) {
    if (row.verdict === "helps") return "helps";
    if (row.verdict === "hurts") return "hurts";
    return row.verdict.startsWith("regularises") ? "regularises" : "";
  }

  // Change to A with its interval, one line a condition; the grey bar behind is what could not have been told from 0.
  function forest(rows) {
    const shown = rows.filter((row) => finite(row.change));
    if (!shown.length) return el("p", { class: "quiet", text: "No condition was compared with A." });
    const width = 960,
      left = 250,
      right = 170,
      line = 28,
      height = shown.length * line + 58;
    const reach = shown.flatMap((row) =>
      [row.low, row.high, row.change, row.detectable, 0.02].filter(finite).map(Math.abs),
    );
    const end = Math.max(...reach) * 1.08;
    const px = (value) => left + ((value + end) / (2 * end)) * (width - left - right);
    const said = shown.map(
      (row) => `${row.name} ${percent(row.change)} (${percent(row.low)} to ${percent(row.high)}), ${row.verdict}`,
    );
    const plot = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `Change of error to A: ${said.join("; ")}`,
    });
    const bottom = height - 42;
    for (const at of ticks(-end, end, 8)) {
      plot.append(svg("line", { class: at === 0 ? "zero" : "grid", x1: px(at), x2: px(at), y1: 4, y2: bottom }));
      plot.append(text(px(at), bottom + 16, percent(at).replace(".0", ""), { class: "axis", "text-anchor": "middle" }));
    }
    plot.append(
      text(px(0), height - 6, "← less error than A    ·    more error →", { class: "axis", "text-anchor": "middle" }),
    );
    shown.forEach((row, index) => {
      const y = 4 + line * (index + 0.5),
        kind = verdictClass(row);
      if (finite(row.detectable)) {
        const from = px(-row.detectable);
        plot.append(
          svg("rect", {
            class: "power",
            x: from,
            width: px(row.detectable) - from,
            y: y - 9,
            height: 18,
            opacity: 0.6,
          }),
        );
      }
      if (finite(row.low) && finite(row.high)) {
        plot.append(svg("line", { class: `mark ${kind}`, x1: px(row.low), x2: px(row.high), y1: y, y2: y }));
        for (const tip of [row.low, row.high])
          plot.append(svg("line", { class: `mark ${kind}`, x1: px(tip), x2: px(tip), y1: y - 4, y2: y + 4 }));
      }
      plot.append(svg("rect", { class: `mark ${kind}`, x: px(row.change) - 4, y: y - 4, width: 8, height: 8 }));
      const label = text(left - 10, y + 4, clipped(`${row.name}  ${row.label}`, 36), { "text-anchor": "end" });
      plot.append(label, text(width - right + 10, y + 4, row.verdict, { class: kind }));
    });
    return el("div", { class: "forest" }, plot);
  }

  function clipped(words, letters) {
    return words.length <= letters ? words : `${words.slice(0, letters - 1)}…`;
  }

  function read() {
    return JSON.parse(document.getElementById("data").textContent);
  }

  return { curves, forest, percent, verdictClass, finite, read };
})();
