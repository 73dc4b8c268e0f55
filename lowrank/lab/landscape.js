// A picture of runs. The mouse over it shows the run of the nearest dot, a click chooses it.
// Places are shares of the picture, so that they hold at any size.

const REACH = 24; // pixels around a dot within which the mouse finds it
const RING = 14; // pixels across the mark around the run that is shown
const APART = 6; // pixels between the mark and what is said
const SAME = 2; // pixels between dots that nobody tells apart: all of them are shown

function part(frame, style) {
  const made = document.createElement("div");
  made.style.cssText = `position: absolute; pointer-events: none; box-sizing: border-box; ${style}`;
  frame.append(made);
  return made;
}

function render({ model, el }) {
  const frame = document.createElement("div");
  frame.style.cssText = "position: relative; max-width: 55rem; line-height: 0";
  const image = new Image();
  image.style.cssText = "width: 100%; height: auto";
  image.alt = "Test accuracy against parameters of the recorded runs";
  frame.append(image);
  const line = part(frame, "width: 2px; margin-left: -1px; background: #C1121F");
  const ring = part(
    frame,
    `width: ${RING}px; height: ${RING}px; margin: -${RING / 2}px; border: 2px solid #C1121F; border-radius: 50%`,
  );
  const tip = part(
    frame,
    `position: fixed; inset: auto; margin: 0; padding: 0.4em 0.6em; width: max-content; max-width: min(24em, 90vw);
     white-space: pre-line; font: 13px/1.4 sans-serif; color: #222; background: #FFFFFFF2; border: 1px solid #888;
     border-radius: 4px`,
  );
  tip.popover = "manual"; // above all else, so that nothing cuts it off
  el.append(frame);

  const place = (each, x, y) => Object.assign(each.style, { left: `${100 * x}%`, top: `${100 * y}%` });
  const hide = () => {
    frame.style.cursor = "";
    ring.style.display = "none";
    tip.hidePopover();
  };

  function showPicture() {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    hide();
  }

  function showLine() {
    const { x, top, bottom } = model.get("line");
    line.style.display = x === undefined ? "none" : "";
    place(line, x, top);
    line.style.height = `${100 * (bottom - top)}%`;
  }

  /** The dots nearest to the mouse, the nearest first: none, one, or several that nobody tells apart. */
  function near(event) {
    const box = image.getBoundingClientRect();
    const distances = model.get("dots").map((dot) => ({
      dot,
      far: Math.hypot(box.left + dot.x * box.width - event.clientX, box.top + dot.y * box.height - event.clientY),
    }));
    distances.sort((one, other) => one.far - other.far);
    return distances.filter(({ far }) => far < REACH && far <= distances[0].far + SAME).map(({ dot }) => dot);
  }

  function showRun(event) {
    const dots = near(event);
    if (!dots.length) return hide();
    const [{ x, y }] = dots;
    frame.style.cursor = "pointer";
    tip.textContent = dots.map((dot) => dot.text).join("\n\n");
    ring.style.display = "";
    place(ring, x, y);
    tip.showPopover();
    const { left, top } = ring.getBoundingClientRect();
    const inside = (wish, size, room) => `${Math.max(0, Math.min(wish, room - size))}px`;
    const across = x > 0.5 ? left - APART - tip.offsetWidth : left + RING + APART;
    tip.style.left = inside(across, tip.offsetWidth, window.innerWidth);
    const below = top + RING + APART;
    const fits = below + tip.offsetHeight <= window.innerHeight;
    tip.style.top = inside(fits ? below : top - APART - tip.offsetHeight, tip.offsetHeight, window.innerHeight);
  }

  function choose(event) {
    const [dot] = near(event);
    if (!dot) return;
    model.set("chosen", dot.run);
    model.save_changes();
  }

  frame.addEventListener("mousemove", showRun);
  frame.addEventListener("mouseleave", hide);
  frame.addEventListener("click", choose);
  model.on("change:picture", showPicture);
  model.on("change:line", showLine);
  showPicture();
  showLine();
  return () => URL.revokeObjectURL(image.src);
}

export default { render };
