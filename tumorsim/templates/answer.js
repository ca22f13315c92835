"use strict";
// Scrollable planes of an answer sheet: each <td class="plane"> of a tumor shows its pictures as they are,
// and this script puts a canvas under the marks, drawn from the tumor's voxels. Without it the pictures stay.
(() => {
  // [axis cut, axis across, axis down, where the axis cut leads to and comes from]; axes are RAS+, and both
  // axes of a picture run backwards: radiological display
  const PLANES = {
    axial: [2, 0, 1, "SI"], coronal: [1, 0, 2, "AP"], sagittal: [0, 1, 2, "RL"],
  };
  const SIZE = 400, LARGE = 1000;  // pixels of a canvas
  const control = name => document.getElementById(name);
  const planes = [];  // {canvas, slider, readout, plane, tumor}
  let pending = false;

  async function unpack(text, n) {
    const packed = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = 1; i < n; i++) bytes[i] += bytes[i - 1];  // stored as differences; wraps at 256
    return bytes;
  }

  function slicer(tumor, plane, index) {
    // Return a function (i, j) → position in the tumor's bytes, for one slice.
    const [cut, across, down] = PLANES[plane];
    const steps = [1, tumor.shape[0], tumor.shape[0] * tumor.shape[1]];
    return (i, j) => index * steps[cut] + i * steps[across] + j * steps[down];
  }

  function table(window) {
    // Return gray values 0…255 of the 256 levels; level 0 is air and stays black.
    const [low, high] = window;
    const width = (high - low) * 2 ** (-control("contrast").value / 50);
    const center = (low + high) / 2 - (high - low) * control("brightness").value / 100;
    const gray = new Uint8ClampedArray(256);
    for (let v = 1; v < 256; v++) gray[v] = 255 * ((v - center) / width + 0.5);
    return gray;
  }

  function outline(context, tumor, plane, index, look) {
    const [cut, across, down] = PLANES[plane];
    const [w, h] = [tumor.shape[across], tumor.shape[down]], at = slicer(tumor, plane, index);
    const offset = tumor.shape[0] * tumor.shape[1] * tumor.shape[2];
    const on = (i, j) => i >= 0 && j >= 0 && i < w && j < h && tumor.bytes[offset + at(i, j)] > 0;
    const proposed = look.getPropertyValue("--dash");  // nobody drew it: dashed, in another color
    context.beginPath();
    if (tumor.mask) {
      for (let i = 0; i <= w; i++) for (let j = 0; j <= h; j++) {
        if (proposed && (i + j) % 4 > 1) continue;
        if (on(i, j) !== on(i - 1, j)) { context.moveTo(i, j); context.lineTo(i, j + 1); }
        if (on(i, j) !== on(i, j - 1)) { context.moveTo(i, j); context.lineTo(i + 1, j); }
      }
    } else if (index + 0.5 > tumor.box[0][cut] && index + 0.5 < tumor.box[1][cut]) {
      const [from, to] = tumor.box;
      context.rect(from[across], from[down], to[across] - from[across], to[down] - from[down]);
      context.setLineDash([8, 6]);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.lineWidth = 2.5;
    context.strokeStyle = look.getPropertyValue("--outline");
    context.stroke();
    context.setLineDash([]);
  }

  function draw({ canvas, slider, readout, plane, tumor, cell }) {
    const [cut, across, down, ends] = PLANES[plane];
    const [w, h] = [tumor.shape[across], tumor.shape[down]];
    const index = Number(slider.value);
    const at = slicer(tumor, plane, index), gray = table(tumor.window);
    const pixels = new ImageData(w, h);
    for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) {
      pixels.data.fill(gray[tumor.bytes[at(i, j)]], 4 * (j * w + i), 4 * (j * w + i) + 3);
      pixels.data[4 * (j * w + i) + 3] = 255;
    }
    const flat = new OffscreenCanvas(w, h);
    flat.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d"), size = canvas.width, scale = size / tumor.extent;
    const [sx, sy] = [scale * tumor.spacing[across], scale * tumor.spacing[down]];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillRect(0, 0, size, size);
    context.setTransform(-sx, 0, 0, -sy, size / 2 + sx * tumor.middle[across], size / 2 + sy * tumor.middle[down]);
    context.drawImage(flat, 0, 0);
    if (control("outlines").checked) outline(context, tumor, plane, index, getComputedStyle(cell));
    const off = Math.round((index - tumor.through[cut]) * tumor.spacing[cut]);
    const side = ends[off > 0 ? 0 : 1];
    readout.textContent = off === 0 ? "center" : `${side} ${Math.abs(off)} mm`;
    const names = { S: "superior", I: "inferior", A: "anterior", P: "posterior", R: "to the right", L: "to the left" };
    slider.setAttribute("aria-valuetext",
      off === 0 ? "through the tumor's center" : `${Math.abs(off)} millimetres ${names[side]} of the tumor's center`);
  }

  function redraw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; planes.forEach(draw); });
  }

  function follow(moved) {
    // Move the same plane of all other tumors as far from their centers.
    const cut = PLANES[moved.plane][0];
    const off = (Number(moved.slider.value) - moved.tumor.through[cut]) * moved.tumor.spacing[cut];
    if (control("locked").checked) planes.filter(p => p.plane === moved.plane && p !== moved).forEach(p => {
      p.slider.value = Math.round(p.tumor.through[cut] + off / p.tumor.spacing[cut]);
    });
    redraw();
  }

  function reset() {
    control("brightness").value = control("contrast").value = 0;
    planes.forEach(p => { p.slider.value = p.tumor.through[PLANES[p.plane][0]]; });
    redraw();
  }

  function enlarge(p) {
    // Show one picture in a dialog, which keeps the focus; closed it goes back to where it was.
    const dialog = control("large"), from = document.activeElement, shown = [p.frame, p.slider];
    if (dialog.open) return;
    const box = document.createElement("div");
    box.className = p.cell.className;
    box.append(...shown);
    dialog.append(box);
    control("large-name").textContent = p.frame.querySelector("svg").getAttribute("aria-label");
    dialog.addEventListener("close", () => {
      p.cell.prepend(...shown);
      p.canvas.width = p.canvas.height = SIZE;
      box.remove();
      redraw();
      (shown.includes(from) ? p.slider : from).focus({ preventScroll: true });
    }, { once: true });
    p.canvas.width = p.canvas.height = LARGE;
    dialog.showModal();
    p.slider.focus();
    redraw();
  }

  function connect(p) {
    p.canvas.addEventListener("dblclick", () => enlarge(p));
    p.button.addEventListener("click", () => enlarge(p));
    p.button.hidden = false;
    p.canvas.addEventListener("wheel", event => {
      if (!document.activeElement?.matches(".plane input")) return;  // until a picture is chosen the page scrolls
      event.preventDefault();
      p.slider.value = Number(p.slider.value) - Math.sign(event.deltaY);
      follow(p);
    }, { passive: false });
    p.canvas.addEventListener("pointerdown", event => {
      event.preventDefault();
      p.slider.focus({ preventScroll: true });
      p.canvas.setPointerCapture(event.pointerId);
    });
    p.canvas.addEventListener("pointermove", event => {
      if (!event.buttons) return;
      control("contrast").value = Number(control("contrast").value) + event.movementX / 2;
      control("brightness").value = Number(control("brightness").value) - event.movementY / 2;
      redraw();
    });
    p.slider.addEventListener("input", () => follow(p));
    p.slider.addEventListener("keydown", event => {
      if (event.key === "Escape" && !control("large").open) p.slider.blur();
      if (event.key === "Enter") enlarge(p);
    });
  }

  async function start() {
    if (!window.DecompressionStream || !window.OffscreenCanvas) return;  // the still pictures stay
    for (const source of document.querySelectorAll(".voxels")) {
      const tumor = JSON.parse(source.dataset.view);
      tumor.bytes = await unpack(source.textContent.trim(), tumor.shape[0] * tumor.shape[1] * tumor.shape[2]);
      for (const cell of document.querySelectorAll(`.plane[data-of="${source.id}"]`)) {
        const plane = cell.dataset.plane, cut = PLANES[plane][0];
        const canvas = document.createElement("canvas"), slider = document.createElement("input");
        canvas.width = canvas.height = SIZE;
        Object.assign(slider, { type: "range", min: 0, max: tumor.shape[cut] - 1, value: tumor.through[cut] });
        slider.setAttribute("aria-label", `Slice, ${cell.querySelector("svg").getAttribute("aria-label")}`);
        const frame = cell.querySelector(".frame"), button = cell.querySelector(".enlarge");
        frame.prepend(canvas);
        frame.after(slider);
        cell.classList.add("live");
        const p = { canvas, slider, readout: cell.querySelector(".readout"), plane, tumor, cell, frame, button };
        planes.push(p);
        connect(p);
      }
    }
    if (!planes.length) return;
    for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
    for (const name of ["brightness", "contrast", "outlines"]) control(name).addEventListener("input", redraw);
    control("size").addEventListener("input", event =>
      document.documentElement.style.setProperty("--picture", `${event.target.value}px`));
    control("size").value = planes[0].canvas.clientWidth;
    control("reset").addEventListener("click", reset);
    redraw();
  }

  start();
})();
