"use strict";
{
  const dialog = document.querySelector("dialog");
  const all = [...document.querySelectorAll(".pictures")]
    .map((group) => [...group.querySelectorAll("button")])
    .filter((buttons) => buttons.length);
  const image = dialog.querySelector("img");
  const caption = dialog.querySelector("p");
  let row = 0, column = 0, shown = null;

  // One tab stop a class; the arrows move inside it.
  const select = (r, c) => {
    row = r;
    column = c;
    all[row].forEach((button, at) => { button.tabIndex = at === column ? 0 : -1; });
  };
  const step = (by) => {
    const count = all[row].length;
    select(row, (column + by + count) % count);
  };
  const show = () => {
    shown = all[row][column];
    const small = shown.querySelector("img");
    image.src = small.src;
    image.alt = small.alt;
    caption.textContent = small.alt;
  };

  all.forEach((buttons, r) => buttons.forEach((button, c) => {
    button.tabIndex = c === 0 ? 0 : -1;
    button.addEventListener("click", () => { select(r, c); show(); dialog.showModal(); });
    button.addEventListener("focus", () => select(r, c));
    button.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by) { step(by); all[row][column].focus(); event.preventDefault(); }
    });
  }));

  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) { step(by); show(); event.preventDefault(); }
  });
  dialog.querySelector("[data-step='-1']").addEventListener("click", () => { step(-1); show(); });
  dialog.querySelector("[data-step='1']").addEventListener("click", () => { step(1); show(); });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => shown.focus());
  if (all.length) show();
}
