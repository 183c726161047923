"use strict";
{
  // A form that takes a moment says so, and is sent once.
  for (const form of document.querySelectorAll("form[data-busy]")) {
    form.addEventListener("submit", () => {
      const button = form.querySelector("button");
      button.dataset.label = button.textContent;
      button.textContent = form.dataset.busy;
      button.setAttribute("aria-disabled", "true");
      form.addEventListener("submit", (again) => again.preventDefault());
    });
  }
  // Coming back to a page that the browser kept: its forms can be sent again.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  // What an answer is about comes into view.
  const plan = document.getElementById("plan") || document.querySelector("[role=alert]");
  if (plan && location.search) {
    plan.tabIndex = -1;
    plan.focus();
  }

  const watched = document.querySelector("[data-progress]");
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const words = (seconds) => seconds < 90 ? `about ${Math.ceil(seconds)} s left`
    : seconds < 5400 ? `about ${Math.round(seconds / 60)} min left`
      : `about ${(seconds / 3600).toFixed(1)} h left`;

  const show = (told) => {
    const done = document.getElementById("stages");
    for (const stage of (told.done || []).slice(done.children.length)) {
      const item = document.createElement("li");
      item.className = "past";
      item.textContent = capital(stage);
      done.append(item);
    }
    if (!told.stage) return;
    const stage = document.getElementById("stage");
    const percent = Math.floor(100 * told.share);
    if (stage.textContent !== capital(told.stage)) {
      stage.textContent = capital(told.stage);
      document.getElementById("spoken").textContent = stage.textContent;
    }
    document.getElementById("share").value = told.share;
    document.getElementById("left").textContent =
      ` ${percent} %` + (told.left && told.left > 1 ? `, ${words(told.left)}` : "");
  };

  const look = async () => {
    try {
      const answer = await fetch(watched.dataset.progress);
      const told = await answer.json();
      if (told.state !== "running") return location.reload();
      show(told);
    } catch {
      document.getElementById("left").textContent = " the page's server does not answer; the run goes on";
    }
    setTimeout(look, 700);
  };
  if (watched) look();
}
