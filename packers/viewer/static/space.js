"use strict";
// A small 3-D view: the object's points, the scene of the first frame, the object's path; in metres where the camera is
// known, with the camera, the hand's path and the held object. Drag turns, wheel zooms.
(function () {
  const { el, bytes } = cuepack;

  class Space {
    constructor(box, episode, points) {
      this.episode = episode;
      this.points = points;
      this.space = episode.space;
      this.canvas = el("canvas", {
        role: "img",
        "aria-label": "3-D view of the object's points and the centroid's path",
        tabindex: 0,
      });
      this.context = this.canvas.getContext("2d");
      this.scene = new Float32Array(bytes(this.space.scene).buffer);
      this.colours = bytes(this.space.scene_colours);
      this.held = new Float32Array(bytes(this.space.held || "").buffer);
      this.path = (this.space.path || []).filter((point) => point && point[0] !== null);
      this.withScene = true;
      const toggle = el("input", {
        type: "checkbox",
        checked: true,
        onchange: (e) => {
          this.withScene = e.target.checked;
          this.show(this.frame);
        },
      });
      box.append(
        this.canvas,
        el(
          "p",
          { class: "quiet under" },
          el("label", {}, toggle, "scene of frame 0"),
          el("span", { text: `${this.space.dataset}, ${this.space.units}; drag turns, wheel zooms` }),
        ),
      );
      this.home();
      this.listen();
      this.frame = 0;
      new ResizeObserver(() => this.show(this.frame)).observe(this.canvas);
    }

    // Looks at the middle of the path (of the scene where there is none) from a little above the camera.
    home() {
      const hand = (this.space.hand || []).filter((point) => point && point[0] !== null);
      const seen = this.path.length ? this.path : triples(this.scene);
      const around = hand.length ? [...seen, ...hand] : seen;
      this.centre = [0, 1, 2].map((axis) => median(around.map((point) => point[axis])));
      const away = around.map((point) => Math.hypot(...point.map((value, axis) => value - this.centre[axis])));
      this.radius = Math.max(away.length ? quantile(away, 0.95) : 0, 0.16 * Math.abs(this.centre[2])) || 1;
      this.yaw = -0.45;
      this.pitch = 0.3;
      this.zoom = 1;
    }

    listen() {
      let last = null;
      this.canvas.addEventListener("pointerdown", (event) => {
        last = [event.clientX, event.clientY];
        this.canvas.setPointerCapture(event.pointerId);
      });
      this.canvas.addEventListener("pointermove", (event) => {
        if (!last) return;
        this.yaw += (event.clientX - last[0]) * 0.01;
        this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + (event.clientY - last[1]) * 0.01));
        last = [event.clientX, event.clientY];
        this.show(this.frame);
      });
      this.canvas.addEventListener("pointerup", () => {
        last = null;
      });
      this.canvas.addEventListener("dblclick", () => {
        this.home();
        this.show(this.frame);
      });
      this.canvas.addEventListener(
        "wheel",
        (event) => {
          event.preventDefault();
          this.zoom = Math.max(0.2, Math.min(20, this.zoom * Math.exp(-event.deltaY * 0.001)));
          this.show(this.frame);
        },
        { passive: false },
      );
    }

    projection(wide, high) {
      const cy = Math.cos(this.yaw),
        sy = Math.sin(this.yaw),
        cp = Math.cos(this.pitch),
        sp = Math.sin(this.pitch);
      const [ox, oy, oz] = this.centre,
        unit = this.radius * 2.6;
      const scale = Math.min(wide, high) * 1.25 * this.zoom;
      return (x, y, z) => {
        const dx = (x - ox) / unit,
          dy = (y - oy) / unit,
          dz = (z - oz) / unit;
        const turnedX = cy * dx + sy * dz,
          turnedZ = -sy * dx + cy * dz;
        const away = cp * turnedZ - sp * dy + 2.2,
          down = cp * dy + sp * turnedZ;
        if (away < 0.15) return null;
        return [wide / 2 + (scale * turnedX) / away, high / 2 + (scale * down) / away, away];
      };
    }

    show(t) {
      this.frame = t;
      const ratio = window.devicePixelRatio || 1;
      const wide = (this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio)));
      const high = (this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio)));
      const context = this.context,
        project = this.projection(wide, high);
      context.clearRect(0, 0, wide, high);
      if (this.withScene) this.dots(project, this.scene, this.colours, 1.6 * ratio, 0.42);
      const object = this.points.object(t);
      if (object) this.dots(project, object.xyz, object.rgb, 2.6 * ratio, 1);
      this.drawHeld(project, t, ratio);
      this.drawPath(project, this.space.path || [], t, ratio, "11, 99, 165");
      this.drawPath(project, this.space.hand || [], t, ratio, "204, 121, 167");
      if (this.space.hand) this.camera(project, ratio);
      this.axes(project, ratio);
      this.canvas.dataset.frame = t;
    }

    dots(project, xyz, rgb, size, alpha) {
      const context = this.context,
        found = [];
      for (let i = 0; i < xyz.length; i += 3) {
        const at = project(xyz[i], xyz[i + 1], xyz[i + 2]);
        if (at) found.push([at, i]);
      }
      found.sort((a, b) => b[0][2] - a[0][2]);
      context.globalAlpha = alpha;
      for (const [[x, y, away], i] of found) {
        const side = Math.min(4 * size, (size * 2.2) / away);
        context.fillStyle = `rgb(${rgb[i]},${rgb[i + 1]},${rgb[i + 2]})`;
        context.fillRect(x - side / 2, y - side / 2, side, side);
      }
      context.globalAlpha = 1;
    }

    // The held object's points at frame t, orange.
    drawHeld(project, t, ratio) {
      const n = 3 * (this.space.held_points || 0),
        xyz = this.held.subarray(n * t, n * (t + 1));
      if (!xyz.length || !isFinite(xyz[0])) return;
      const rgb = new Uint8Array(xyz.length).map((_, i) => [230, 159, 0][i % 3]);
      this.dots(project, xyz, rgb, 2.6 * ratio, 1);
    }

    // The camera at the origin: its centre and the corners of what it sees, a tenth of a metre ahead.
    camera(project, ratio) {
      const context = this.context,
        eye = project(0, 0, 0);
      if (!eye) return;
      const corners = [
        [-1, -1],
        [1, -1],
        [1, 1],
        [-1, 1],
      ].map(([x, y]) => project(0.05 * x, 0.05 * y, 0.1));
      if (corners.some((corner) => !corner)) return;
      context.strokeStyle = "#1b2430";
      context.lineWidth = ratio;
      context.beginPath();
      corners.forEach((corner, i) => {
        const next = corners[(i + 1) % 4];
        context.moveTo(eye[0], eye[1]);
        context.lineTo(corner[0], corner[1]);
        context.lineTo(next[0], next[1]);
      });
      context.stroke();
    }

    drawPath(project, path, t, ratio, rgb) {
      const context = this.context;
      const line = (from, to, colour, width) => {
        context.beginPath();
        let open = false;
        for (let i = from; i <= to && i < path.length; i++) {
          const at = path[i] && path[i][0] !== null ? project(...path[i]) : null;
          if (!at) open = false;
          else if (open) context.lineTo(at[0], at[1]);
          else {
            context.moveTo(at[0], at[1]);
            open = true;
          }
        }
        context.strokeStyle = colour;
        context.lineWidth = width * ratio;
        context.stroke();
      };
      line(0, path.length - 1, `rgba(${rgb}, 0.35)`, 1.2);
      line(0, t, `rgba(${rgb}, 1)`, 2);
      const now = path[t] && path[t][0] !== null ? project(...path[t]) : null;
      if (now) {
        context.beginPath();
        context.arc(now[0], now[1], 4.5 * ratio, 0, 2 * Math.PI);
        context.fillStyle = `rgb(${rgb})`;
        context.fill();
        context.lineWidth = 1.5 * ratio;
        context.strokeStyle = "#fff";
        context.stroke();
      }
    }

    axes(project, ratio) {
      const context = this.context,
        at = project(...this.centre);
      if (!at) return;
      const length = (this.radius * 0.5) / this.zoom,
        corner = [34 * ratio, this.canvas.height - 34 * ratio];
      ["x", "y", "z"].forEach((name, axis) => {
        const end = project(...this.centre.map((value, other) => value + (other === axis ? length : 0)));
        if (!end) return;
        const size = (22 * ratio) / Math.max(1, Math.min(this.canvas.width, this.canvas.height) * 0.11);
        const x = corner[0] + (end[0] - at[0]) * size,
          y = corner[1] + (end[1] - at[1]) * size;
        context.strokeStyle = context.fillStyle = "#5a6472";
        context.lineWidth = ratio;
        context.beginPath();
        context.moveTo(...corner);
        context.lineTo(x, y);
        context.stroke();
        context.font = `${10 * ratio}px sans-serif`;
        context.fillText(name, x + 2 * ratio, y + 3 * ratio);
      });
    }
  }

  function triples(flat) {
    const found = [];
    for (let i = 0; i < flat.length; i += 3) found.push([flat[i], flat[i + 1], flat[i + 2]]);
    return found;
  }

  function quantile(values, share) {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] || 0;
  }

  function median(values) {
    return quantile(values, 0.5);
  }

  cuepack.Space = Space;
})();
