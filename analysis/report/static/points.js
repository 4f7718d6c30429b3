// Very many points in one picture, written pixel by pixel: the same with and without a GPU.
"use strict";
(() => {
  const CELLS = 128; // of the index that finds a point near the pointer, along each side
  const FAINT = 0.5;

  class Points {
    constructor(canvas) {
      this.canvas = canvas;
      this.context = canvas.getContext("2d", { alpha: false });
      this.view = { x: 0.5, y: 0.5, zoom: 1 };
    }

    /** x, y: Float32Array in 0..1; NaN where a point has no place. */
    place(x, y) {
      this.x = x;
      this.y = y;
      this.turns = shuffled(x.length);
    }

    /** rgb: Uint8Array [points x 3]; mask: 1 where a point is asked for, the others are faint. */
    paint(rgb, mask) {
      this.rgb = rgb;
      this.mask = mask;
      this.index();
    }

    /** Counting sort of the asked-for points by their cell. */
    index() {
      this.begins = new Uint32Array(CELLS * CELLS + 1);
      const cells = new Int32Array(this.x.length).fill(-1);
      for (let at = 0; at < cells.length; at++) {
        if (!this.mask[at] || Number.isNaN(this.x[at])) continue;
        cells[at] = cellOf(this.y[at]) * CELLS + cellOf(this.x[at]);
        this.begins[cells[at] + 1]++;
      }
      for (let cell = 0; cell < CELLS * CELLS; cell++) this.begins[cell + 1] += this.begins[cell];
      const next = this.begins.slice();
      this.sorted = new Uint32Array(this.begins[CELLS * CELLS]);
      for (let at = 0; at < cells.length; at++) {
        if (cells[at] >= 0) this.sorted[next[cells[at]]++] = at;
      }
    }

    /** Fit the picture to its element; true if it changed. */
    fit() {
      const ratio = Math.min(2, window.devicePixelRatio || 1);
      const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
      const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
      if (width === this.canvas.width && height === this.canvas.height && this.pixels) return false;
      this.canvas.width = width;
      this.canvas.height = height;
      this.ratio = ratio;
      this.pixels = this.context.createImageData(width, height);
      return true;
    }

    /** Pixels of the picture for one unit of the map. */
    scale() {
      return 0.94 * Math.min(this.canvas.width, this.canvas.height) * this.view.zoom;
    }

    /** From the map to pixels of the element and back. */
    toScreen(x, y) {
      const scale = this.scale();
      return [(this.canvas.width / 2 + (x - this.view.x) * scale) / this.ratio,
        (this.canvas.height / 2 + (y - this.view.y) * scale) / this.ratio];
    }

    toMap(left, top) {
      const scale = this.scale();
      return [this.view.x + (left * this.ratio - this.canvas.width / 2) / scale,
        this.view.y + (top * this.ratio - this.canvas.height / 2) / scale];
    }

    radius() {
      const few = Math.min(2.4, Math.pow(90000 / this.x.length, 0.2));
      return this.ratio * Math.min(5.5, 1.15 * few * Math.pow(this.view.zoom, 0.4));
    }

    draw(background, faint, marked) {
      this.fit();
      const words = new Uint32Array(this.pixels.data.buffer);
      words.fill(0xff000000 | (background[2] << 16) | (background[1] << 8) | background[0]);
      this.stamps(0, FAINT, faint);
      this.stamps(1, 0.85, null);
      this.context.putImageData(this.pixels, 0, 0);
      if (marked >= 0) this.ring(marked);
    }

    /** Discs of the points whose mask is `wanted`, in a shuffled order so that none hides the rest. */
    stamps(wanted, opacity, colour) {
      const { width, height } = this.canvas;
      const stamp = disc(wanted ? this.radius() : Math.min(this.radius(), 1.3 * this.ratio), opacity);
      const scale = this.scale(), data = this.pixels.data;
      const left = width / 2 - this.view.x * scale - stamp.middle;
      const top = height / 2 - this.view.y * scale - stamp.middle;
      const edge = stamp.side;
      for (const at of this.turns) {
        if (this.mask[at] !== wanted) continue;
        const x = Math.round(left + this.x[at] * scale), y = Math.round(top + this.y[at] * scale);
        if (!(x >= 0 && y >= 0 && x + edge <= width && y + edge <= height)) continue;
        const [r, g, b] = colour ?? [this.rgb[3 * at], this.rgb[3 * at + 1], this.rgb[3 * at + 2]];
        blend(data, 4 * (y * width + x), 4 * width, stamp, r, g, b);
      }
    }

    ring(at) {
      const [left, top] = this.toScreen(this.x[at], this.y[at]);
      this.context.beginPath();
      this.context.arc(left * this.ratio, top * this.ratio, this.radius() + 5 * this.ratio, 0, 7);
      this.context.lineWidth = 2 * this.ratio;
      this.context.strokeStyle = isae.isDark() ? "#ffffff" : "#000000";
      this.context.stroke();
    }

    /** The `count` asked-for points nearest to a place of the element, within `reach` pixels. */
    near(left, top, count, reach) {
      const [x, y] = this.toMap(left, top);
      const span = reach * this.ratio / this.scale();
      const found = [];
      for (let row = cellOf(y - span); row <= cellOf(y + span); row++) {
        const from = this.begins[row * CELLS + cellOf(x - span)];
        const to = this.begins[row * CELLS + cellOf(x + span) + 1];
        for (let place = from; place < to; place++) {
          const at = this.sorted[place];
          const far = Math.hypot(this.x[at] - x, this.y[at] - y);
          if (far <= span) found.push([far, at]);
        }
      }
      return found.sort((a, b) => a[0] - b[0]).slice(0, count).map((pair) => pair[1]);
    }
  }

  const cellOf = (part) => Math.max(0, Math.min(CELLS - 1, Math.floor(part * CELLS)));

  /** 0..n-1 in an order that is the same every time (a 32-bit congruential generator). */
  function shuffled(n) {
    const out = Uint32Array.from({ length: n }, (_, at) => at);
    let state = 1;
    for (let at = n - 1; at > 0; at--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const other = Math.floor(state / 4294967296 * (at + 1));
      [out[at], out[other]] = [out[other], out[at]];
    }
    return out;
  }

  /** How much of each pixel a disc covers, of 256. */
  function disc(radius, opacity) {
    const middle = Math.ceil(radius), side = 2 * middle + 1;
    const places = [], parts = [];
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const part = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x - middle, y - middle)));
        if (part > 0.02) places.push(y, x), parts.push(Math.round(256 * part * opacity));
      }
    }
    return { side, middle, places: Int32Array.from(places), parts: Int32Array.from(parts) };
  }

  function blend(data, start, line, stamp, r, g, b) {
    const { places, parts } = stamp;
    for (let at = 0; at < parts.length; at++) {
      const place = start + places[2 * at] * line + 4 * places[2 * at + 1], part = parts[at];
      data[place] += ((r - data[place]) * part) >> 8;
      data[place + 1] += ((g - data[place + 1]) * part) >> 8;
      data[place + 2] += ((b - data[place + 2]) * part) >> 8;
    }
  }

  isae.Points = Points;
})();
