"use strict";
// Frames of one packet, drawn on canvases that all show the same frame.
(function () {
  const { el, bytes, load, number } = cuepack;
  const TRAIL = 12;
  // Trails of at most this many points of a kind: more would run into one smear.
  const MOST_TRAILS = 80;
  const KEPT_SHEETS = 6;
  const TITLES = {
    rgb: "RGB",
    masks: "Masks",
    tracks: "Tracks",
    depth: "Depth",
    stabilized: "Stabilized",
    hand: "Hand, re-projected",
    aligned: "Aligned depth",
    metric: "Metric depth",
    object_depth: "Object depth",
  };
  const ORDER = ["rgb", "masks", "tracks", "hand", "depth", "stabilized", "aligned", "metric", "object_depth"];
  // Okabe and Ito's palette: on the object, off it, grid.
  const POINT = { on: "#ff9f1c", off: "#56b4e9", grid: "#ffffff", robot: "#cc79a7" };

  // Sheets of one panel: loaded when a frame is wanted, the least recently used forgotten.
  class Sheets {
    constructor(folder, panel, episode) {
      this.path = (index) => `${folder}${panel}-${index}.${panel === "masks" ? "png" : "jpg"}`;
      this.count = Math.ceil(episode.n_frames / episode.view.sheet_frames);
      this.kept = new Map();
    }
    // A decoded picture, or a promise of one.
    get(index) {
      let entry = this.kept.get(index);
      if (entry) {
        this.kept.delete(index);
      } else {
        const image = new Image();
        image.src = this.path(index);
        entry = { image, ready: false };
        entry.loading = image.decode().then(
          () => {
            entry.ready = true;
          },
          () => {
            entry.failed = entry.ready = true;
          },
        );
      }
      this.kept.set(index, entry);
      while (this.kept.size > KEPT_SHEETS) this.kept.delete(this.kept.keys().next().value);
      return entry;
    }
    prefetch(index) {
      if (index >= 0 && index < this.count) this.get(index);
    }
  }

  // Tracks and object points, in files of some frames each.
  class Points {
    constructor(folder, episode) {
      this.folder = folder;
      this.episode = episode;
      this.size = episode.view.points_frames;
      this.count = Math.ceil(episode.n_frames / this.size);
      this.kept = new Map();
    }
    get(index) {
      let entry = this.kept.get(index);
      if (entry) {
        this.kept.delete(index);
      } else {
        entry = { ready: false };
        entry.loading = load(`${this.folder}points-${index}.js`).then(
          (payload) => {
            entry.data = this.decoded(payload);
            entry.ready = true;
          },
          () => {
            entry.ready = entry.failed = true;
          },
        );
      }
      this.kept.set(index, entry);
      while (this.kept.size > KEPT_SHEETS) this.kept.delete(this.kept.keys().next().value);
      return entry;
    }
    decoded(payload) {
      const tracks = {};
      for (const [name, { xy, visible }] of Object.entries(payload.tracks)) {
        tracks[name] = { xy: new Int16Array(bytes(xy).buffer), visible: bytes(visible) };
      }
      return { start: payload.start, tracks, cloud: payload.cloud, colours: payload.colours };
    }
    // x, y in packet pixels and whether point n is seen at frame t; null where the file is not here yet.
    reader(name) {
      const n = this.episode.tracks[name].n,
        step = this.episode.view.xy_step,
        row = Math.ceil(n / 8);
      return (t) => {
        const entry = this.kept.get(Math.floor(t / this.size));
        const track = entry && entry.data && entry.data.tracks[name];
        if (!track) return null;
        const local = t % this.size,
          base = local * n * 2,
          bits = local * row;
        return {
          x: (i) => track.xy[base + 2 * i] * step,
          y: (i) => track.xy[base + 2 * i + 1] * step,
          seen: (i) => (track.visible[bits + (i >> 3)] >> (7 - (i & 7))) & 1,
        };
      };
    }
    object(t) {
      const entry = this.kept.get(Math.floor(t / this.size));
      if (!entry || !entry.data || !entry.data.cloud.length) return null;
      const local = t - entry.data.start;
      return { xyz: new Float32Array(bytes(entry.data.cloud[local]).buffer), rgb: bytes(entry.data.colours[local]) };
    }
  }

  // The panels of one packet. `show(t)` resolves when every panel shows frame t.
  class Panels {
    constructor(box, episode, folder, options) {
      this.episode = episode;
      this.box = box;
      this.options = Object.assign(
        { foreground: true, grid: false, robot: false, trails: true, beside: null },
        options,
      );
      this.points = new Points(folder, episode);
      this.sheets = {};
      for (const name of episode.panels) this.sheets[name] = new Sheets(folder, name, episode);
      const names = panelNames(episode);
      if (!episode.tracks.foreground) this.options.grid = true;
      this.panels = [];
      // `beside`: panels that another packet next to this one has; their places are kept free.
      for (const name of ORDER) {
        if (names.has(name)) this.panels.push(this.panel(name));
        else if (this.options.beside && this.options.beside.has(name)) this.absent(name);
      }
      this.wanted = 0;
      this.shown = -1;
      new ResizeObserver(() => this.redraw()).observe(box);
    }

    panel(name) {
      const canvas = el("canvas", {
        "data-panel": name,
        role: "img",
        "aria-label": `${TITLES[name]} of the current frame`,
      });
      const place = this.box.children.length + 1;
      const caption = el("figcaption", {}, el("span", { text: TITLES[name] }), this.legend(name));
      const figure = el("figure", { class: "panel", "data-panel": name, tabindex: -1 }, caption, canvas);
      canvas.title = `Click or press ${place} to enlarge`;
      canvas.addEventListener("click", () => this.zoom(name));
      const [height, width] = this.episode.view.size;
      canvas.style.aspectRatio = `${width} / ${height}`;
      this.box.append(figure);
      return { name, canvas, figure, context: canvas.getContext("2d") };
    }

    absent(name) {
      const caption = el(
        "figcaption",
        {},
        el("span", { text: TITLES[name] }),
        el("span", { class: "legend", text: "not in this packet" }),
      );
      this.box.append(el("figure", { class: "panel absent" }, caption));
    }

    legend(name) {
      const known = this.episode.legend[name] || {};
      const legend = el("span", { class: "legend" });
      if (known.fault) legend.append(el("span", { class: "fault", title: known.fault, text: "damaged" }));
      for (const mark of known.marks || []) {
        const swatch = el("i");
        swatch.style.background = `rgb(${mark.rgb.join(",")})`;
        legend.append(swatch, mark.name);
      }
      if (known.low !== undefined) {
        const [left, right] = known.dark_is_high ? [known.high, known.low] : [known.low, known.high];
        const unit = known.units === "relative inverse depth" ? "" : ` ${known.units}`;
        legend.append(number(+left.toPrecision(3)), this.ramp(), `${number(+right.toPrecision(3))}${unit}`);
        legend.title = `${known.dataset || ""} ${known.units}; bright is near; 1st to 99th percentile of the clip${known.even_in ? `; colours even in ${known.even_in}` : ""}`;
      }
      if (name === "tracks") this.trackLegend(legend);
      return legend;
    }

    ramp() {
      const canvas = el("canvas", { class: "ramp", width: 64, height: 1 });
      const context = canvas.getContext("2d"),
        colours = bytes(this.episode.depth_colours);
      for (let i = 0; i < 64; i++) {
        const at = Math.round((i / 63) * 255) * 3;
        context.fillStyle = `rgb(${colours[at]},${colours[at + 1]},${colours[at + 2]})`;
        context.fillRect(i, 0, 1, 1);
      }
      return canvas;
    }

    trackLegend(legend) {
      const toggle = (option, label, colour) => {
        const box = el("input", { type: "checkbox", checked: this.options[option] });
        box.addEventListener("change", () => {
          this.options[option] = box.checked;
          this.redraw();
        });
        const swatch = colour ? el("i", { class: "round" }) : null;
        if (swatch) swatch.style.background = colour;
        legend.append(el("label", {}, box, swatch, label));
      };
      if (this.episode.tracks.foreground) toggle("foreground", "object", POINT.on);
      if (this.episode.tracks.grid) toggle("grid", "grid", POINT.grid);
      if (this.episode.tracks.robot) toggle("robot", "robot", POINT.robot);
      toggle("trails", "trails");
    }

    zoom(name) {
      const large = this.box.querySelector(".large");
      if (large) large.classList.remove("large");
      const panel = this.panels.find((other) => other.name === name);
      if (panel && panel.figure !== large) panel.figure.classList.add("large");
      this.box.classList.toggle("zoomed", Boolean(this.box.querySelector(".large")));
      this.redraw();
    }

    zoomNumber(index) {
      if (this.panels[index]) this.zoom(this.panels[index].name);
    }

    // Everything that frame t needs.
    parts(t) {
      const sheet = Math.floor(t / this.episode.view.sheet_frames);
      const wanted = Object.values(this.sheets).map((sheets) => sheets.get(sheet));
      const file = Math.floor(t / this.points.size);
      wanted.push(this.points.get(file));
      const before = Math.floor(Math.max(0, t - TRAIL) / this.points.size);
      if (before !== file) wanted.push(this.points.get(before));
      return wanted;
    }

    ready(t) {
      return this.parts(t).every((part) => part.ready);
    }

    async show(t) {
      this.wanted = t;
      const parts = this.parts(t);
      if (!parts.every((part) => part.ready)) {
        this.box.classList.add("waiting");
        await Promise.all(parts.map((part) => part.loading));
        this.box.classList.remove("waiting");
      }
      // While this one was loading, another frame may have been asked for.
      if (this.wanted !== t) return false;
      this.shown = t;
      this.redraw();
      const sheet = Math.floor(t / this.episode.view.sheet_frames);
      for (const sheets of Object.values(this.sheets)) sheets.prefetch(sheet + 1);
      if (Math.floor(t / this.points.size) + 1 < this.points.count)
        this.points.get(Math.floor(t / this.points.size) + 1);
      return true;
    }

    redraw() {
      if (this.shown < 0) return;
      for (const panel of this.panels) this.draw(panel, this.shown);
    }

    draw({ name, canvas, context }, t) {
      const ratio = window.devicePixelRatio || 1,
        [height, width] = this.episode.view.size;
      const wide = Math.max(1, Math.round(canvas.clientWidth * ratio)),
        high = Math.round((wide * height) / width);
      if (canvas.width !== wide || canvas.height !== high) {
        canvas.width = wide;
        canvas.height = high;
      }
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.clearRect(0, 0, wide, high);
      if (name === "masks" || name === "tracks") this.drawFrame(context, "rgb", t, wide, high);
      if (name === "tracks") this.drawTracks(context, t, wide, high);
      else this.drawFrame(context, name, t, wide, high);
      canvas.dataset.frame = t;
    }

    drawFrame(context, name, t, wide, high) {
      const { sheet_frames: frames, columns, stride, size } = this.episode.view;
      const entry = this.sheets[name].get(Math.floor(t / frames));
      if (!entry.ready || entry.failed) return;
      const place = t % frames;
      context.drawImage(
        entry.image,
        (place % columns) * stride[1],
        Math.floor(place / columns) * stride[0],
        size[1],
        size[0],
        0,
        0,
        wide,
        high,
      );
    }

    drawTracks(context, t, wide, high) {
      // A veil, so that points stand out against bright and busy frames.
      context.fillStyle = "rgba(12, 18, 28, 0.45)";
      context.fillRect(0, 0, wide, high);
      const scale = wide / this.episode.size[1];
      if (this.options.grid && this.episode.tracks.grid) this.drawSet(context, "grid", t, scale);
      if (this.options.robot && this.episode.tracks.robot) this.drawSet(context, "robot", t, scale);
      if (this.options.foreground && this.episode.tracks.foreground) this.drawSet(context, "foreground", t, scale);
    }

    drawSet(context, name, t, scale) {
      const track = this.episode.tracks[name],
        reader = this.points.reader(name);
      const now = reader(t);
      if (!now) return;
      const radius = Math.max(1.4, scale * (name === "grid" ? 0.8 : 1.1));
      const at = (value) => (value + 0.5) * scale;
      const groups =
        name !== "foreground"
          ? [[() => true, POINT[name]]]
          : [
              [(i) => !track.on_object[i], POINT.off],
              [(i) => track.on_object[i], POINT.on],
            ];
      for (const [belongs, colour] of groups) {
        const points = [];
        for (let i = 0; i < track.n; i++) if (belongs(i) && track.from_frame[i] <= t) points.push(i);
        const every = Math.ceil(points.length / MOST_TRAILS);
        context.strokeStyle = context.fillStyle = colour;
        if (this.options.trails) {
          for (let back = Math.min(TRAIL, t); back > 0; back--) {
            const from = reader(t - back),
              to = reader(t - back + 1);
            if (!from || !to) continue;
            context.globalAlpha = 0.75 * (1 - (back - 1) / TRAIL);
            context.lineWidth = Math.max(1, scale * 0.55);
            context.beginPath();
            for (let p = 0; p < points.length; p += every) {
              const i = points[p];
              if (!from.seen(i) || !to.seen(i)) continue;
              context.moveTo(at(from.x(i)), at(from.y(i)));
              context.lineTo(at(to.x(i)), at(to.y(i)));
            }
            context.stroke();
          }
        }
        context.globalAlpha = name === "grid" ? 0.85 : 1;
        context.beginPath();
        for (const i of points) {
          if (!now.seen(i)) continue;
          context.moveTo(at(now.x(i)) + radius, at(now.y(i)));
          context.arc(at(now.x(i)), at(now.y(i)), radius, 0, 2 * Math.PI);
        }
        context.fill();
        // Hidden points are hollow, so that colour alone does not tell.
        context.globalAlpha = 0.6;
        context.lineWidth = Math.max(0.8, scale * 0.3);
        context.beginPath();
        for (const i of points) {
          if (now.seen(i)) continue;
          context.moveTo(at(now.x(i)) + radius * 1.3, at(now.y(i)));
          context.arc(at(now.x(i)), at(now.y(i)), radius * 1.3, 0, 2 * Math.PI);
        }
        context.stroke();
        context.globalAlpha = 1;
      }
    }
  }

  // One clock for any number of listeners: play, step, speed, scrub.
  class Player {
    constructor(box, episode, shows) {
      this.n = episode.n_frames;
      this.fps = episode.fps || 5;
      this.timestamp = episode.timestamp || [];
      this.shows = shows;
      this.frame = 0;
      this.speed = 1;
      this.playing = false;
      this.changed = () => {};
      const button = (text, label, action) =>
        el("button", { text, title: label, "aria-label": label, onclick: action });
      this.playButton = button("▶", "Play or pause (space)", () => this.toggle());
      this.playButton.id = "play";
      this.range = el("input", {
        type: "range",
        id: "scrubber",
        min: 0,
        max: this.n - 1,
        value: 0,
        step: 1,
        "aria-label": "Frame",
      });
      this.range.addEventListener("input", () => this.go(Number(this.range.value)));
      this.label = el("output", { id: "frame", class: "numbers" });
      this.speeds = el(
        "select",
        {
          id: "speed",
          "aria-label": "Speed",
          onchange: (e) => {
            this.speed = Number(e.target.value);
          },
        },
        ...[0.25, 0.5, 1, 2, 4, 8].map((speed) =>
          el("option", { value: speed, text: `${speed}×`, selected: speed === 1 }),
        ),
      );
      box.append(
        button("«", "First frame (Home)", () => this.go(0)),
        button("‹", "One frame back (←)", () => this.step(-1)),
        this.playButton,
        button("›", "One frame on (→)", () => this.step(1)),
        button("»", "Last frame (End)", () => this.go(this.n - 1)),
        this.range,
        this.label,
        this.speeds,
      );
    }
    async go(t) {
      this.frame = Math.min(this.n - 1, Math.max(0, Math.round(t)));
      this.range.value = this.frame;
      const seconds = this.timestamp[this.frame];
      this.label.textContent = `${this.frame} / ${this.n - 1}${seconds === undefined || seconds === null ? "" : `  ${seconds.toFixed(2)} s`}`;
      const frame = this.frame;
      const drawn = await Promise.all(this.shows.map((show) => show(frame)));
      this.changed(frame);
      return drawn.every((one) => one !== false);
    }
    step(by) {
      this.pause();
      return this.go(this.frame + by);
    }
    faster(by) {
      const index = Math.min(this.speeds.options.length - 1, Math.max(0, this.speeds.selectedIndex + by));
      this.speeds.selectedIndex = index;
      this.speed = Number(this.speeds.value);
    }
    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }
    pause() {
      this.playing = false;
      this.playButton.textContent = "▶";
    }
    async play() {
      if (this.n < 2) return;
      this.playing = true;
      this.playButton.textContent = "❚❚";
      if (this.frame >= this.n - 1) await this.go(0);
      let due = performance.now();
      while (this.playing && this.frame < this.n - 1) {
        due = Math.max(due + 1000 / (this.fps * this.speed), performance.now() - 100);
        await new Promise((done) => setTimeout(done, Math.max(0, due - performance.now())));
        await new Promise(requestAnimationFrame);
        if (this.playing) await this.go(this.frame + 1);
      }
      this.pause();
    }
    key(event) {
      const far = event.shiftKey ? 10 : 1;
      if (event.key === " ") this.toggle();
      else if (event.key === "ArrowLeft") this.step(-far);
      else if (event.key === "ArrowRight") this.step(far);
      else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.go(this.n - 1);
      else if (event.key === "+" || event.key === "=") this.faster(1);
      else if (event.key === "-") this.faster(-1);
      else return false;
      return true;
    }
  }

  function panelNames(episode) {
    return new Set([...episode.panels, ...(Object.keys(episode.tracks).length ? ["tracks"] : [])]);
  }

  cuepack.Panels = Panels;
  cuepack.panelNames = panelNames;
  cuepack.Player = Player;
})();
