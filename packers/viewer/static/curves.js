"use strict";
// Time series under one another with one cursor; drag over them to scrub.
(function () {
  const { el, svg, number } = cuepack;
  const COLOURS = ["#0b63a5", "#c4551c", "#3d7f5f", "#8a4b93"];
  const WIDE = 1000;

  class Curves {
    // `all`: one list of series per packet, drawn into the same charts (solid, then dashed).
    constructor(box, all, n, seek) {
      this.n = n;
      this.readers = [];
      this.cursor = el("div", { class: "cursor" });
      this.area = el("div", { class: "charts" }, this.cursor);
      for (const series of all[0]) {
        const others = all.slice(1).map((list) => list.find((other) => other.title === series.title));
        this.add(series, others);
      }
      box.append(this.area);
      this.scrubbed(seek);
    }

    add(series, others) {
      this.area.append(el("h3", {}, series.title, el("small", { text: ` ${series.units}` })));
      const groups = series.apart ? series.lines.map((line) => [line]) : [series.lines];
      for (const lines of groups) this.chart(series, lines, others);
    }

    chart(series, lines, others) {
      const high = series.apart ? 30 : 56;
      const same = (line) =>
        others.map((other) => other && other.lines.find((one) => one.name === line.name)).filter(Boolean);
      const known = lines
        .flatMap((line) => [line, ...same(line)])
        .flatMap((line) => line.values.filter((value) => value !== null));
      const least = series.low ?? (known.length ? known.reduce((a, b) => Math.min(a, b), Infinity) : 0);
      let most = series.high ?? (known.length ? known.reduce((a, b) => Math.max(a, b), -Infinity) : 1);
      if (most - least < 1e-9) most = least + 1e-9 + Math.abs(least) * 0.02 + 1e-6;
      const x = (t) => (this.n > 1 ? (t / (this.n - 1)) * WIDE : WIDE / 2);
      const y = (value) => 3 + (high - 6) * (1 - (value - least) / (most - least));
      const picture = svg("svg", {
        viewBox: `0 0 ${WIDE} ${high}`,
        preserveAspectRatio: "none",
        height: high,
        role: "img",
      });
      if (series.shaded) this.shade(picture, series.shaded.values, x, high);
      if (series.spans) this.spans(picture, series.spans, x, high);
      for (const mark of series.marks || []) {
        picture.append(svg("line", { class: "event", x1: x(mark.frame), x2: x(mark.frame), y1: 0, y2: high }));
      }
      const names = el("span", { class: "names" });
      const values = el("span", { class: "numbers" });
      lines.forEach((line, index) => {
        const colour = COLOURS[(series.apart ? 0 : index) % COLOURS.length];
        if (line.sigma) picture.append(band(line, x, y, colour));
        [line, ...same(line)].forEach((one, packet) => {
          picture.append(
            svg("path", {
              class: packet ? "curve other" : "curve",
              d: path(one.values, x, y),
              stroke: packet ? "#c4551c" : colour,
            }),
          );
        });
        const label = el("span", { text: line.name });
        label.style.color = colour;
        const value = el("b");
        value.style.color = colour;
        names.append(label);
        values.append(value);
        const second = same(line)[0];
        const otherValue = second ? el("b", { class: "other" }) : null;
        if (otherValue) values.append(otherValue);
        this.readers.push((t) => {
          value.textContent = number(line.values[t]);
          if (otherValue) otherValue.textContent = number(second.values[t]);
        });
      });
      if (series.shaded) names.append(el("span", { class: "quiet", text: `▒ ${series.shaded.name}` }));
      if (series.spans) {
        const phase = el("b", { class: "phase" });
        names.append(phase);
        this.readers.push((t) => {
          const span = series.spans.find((one) => one.first <= t && t <= one.last);
          phase.textContent = span ? span.name : "phase not sure";
        });
      }
      for (const mark of series.marks || [])
        names.append(el("span", { class: "quiet", text: `¦ ${mark.name} ${mark.frame}` }));
      const row = el("div", { class: "chart" }, names, el("div", { class: "plot" }, picture), values);
      this.area.append(row);
      this.plot = row.querySelector(".plot");
    }

    shade(picture, values, x, high) {
      for (let t = 0; t < values.length; t++) {
        if (!values[t] || values[t - 1]) continue;
        let end = t;
        while (values[end + 1]) end++;
        picture.append(
          svg("rect", { class: "shaded", x: x(t), y: 0, width: Math.max(2, x(end) - x(t)), height: high }),
        );
      }
    }

    // Stretches of frames with a name, every second one shaded, what is between them left open.
    spans(picture, spans, x, high) {
      const half = this.n > 1 ? WIDE / (this.n - 1) / 2 : WIDE / 2;
      spans.forEach((span, index) => {
        const from = Math.max(0, x(span.first) - half);
        const to = Math.min(WIDE, x(span.last) + half);
        const text = `${span.name}: frames ${span.first} to ${span.last}`;
        const name = index % 2 ? "phase-span odd" : "phase-span";
        const box = svg("rect", { class: name, x: from, y: 0, width: to - from, height: high });
        box.append(svg("title", {}));
        box.firstChild.textContent = text;
        picture.append(box);
      });
    }

    scrubbed(seek) {
      const at = (event) => {
        const box = this.plot.getBoundingClientRect();
        return Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (this.n - 1));
      };
      let held = false;
      this.area.addEventListener("pointerdown", (event) => {
        if (!event.target.closest(".plot")) return;
        held = true;
        seek(at(event));
      });
      window.addEventListener("pointermove", (event) => held && seek(at(event)));
      window.addEventListener("pointerup", () => {
        held = false;
      });
    }

    show(t) {
      if (!this.plot) return;
      const share = this.n > 1 ? t / (this.n - 1) : 0.5;
      this.cursor.style.left = `${this.plot.offsetLeft + share * this.plot.clientWidth}px`;
      for (const read of this.readers) read(t);
      this.area.dataset.frame = t;
    }
  }

  // Gaps stay gaps; a lone value is drawn as a dot's width.
  function path(values, x, y) {
    let text = "",
      open = false;
    values.forEach((value, t) => {
      if (value === null) {
        open = false;
        return;
      }
      text += `${open ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!open && (values[t + 1] ?? null) === null) text += "h2";
      open = true;
    });
    return text;
  }

  function band(line, x, y, colour) {
    let text = "",
      run = [];
    const close = () => {
      if (run.length > 1) {
        const up = run.map((t) => `${x(t).toFixed(1)} ${y(line.values[t] + line.sigma[t]).toFixed(1)}`);
        const down = run.reverse().map((t) => `${x(t).toFixed(1)} ${y(line.values[t] - line.sigma[t]).toFixed(1)}`);
        text += `M${[...up, ...down].join("L")}z`;
      }
      run = [];
    };
    line.values.forEach((value, t) => (value === null || line.sigma[t] === null ? close() : run.push(t)));
    close();
    return svg("path", { class: "band", d: text, fill: colour });
  }

  cuepack.Curves = Curves;
})();
