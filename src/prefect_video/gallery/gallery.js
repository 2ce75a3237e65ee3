"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add("scripted");

  // Light and dark: the system's choice until the reader makes one.
  const remember = (value) => { try { localStorage.setItem("theme", value); } catch { /* Refused on some file:// pages. */ } };
  const recall = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const switchTheme = () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); };
  if (["light", "dark"].includes(recall())) root.dataset.theme = recall();
  const theme = one("#theme");
  theme.hidden = false;
  theme.addEventListener("click", switchTheme);

  // A still is small; at the size of the first screen the film itself is sharper. One video is cheap.
  for (const link of all(".screen .play")) {
    const still = one("img.still", link.parentElement);
    const sharp = document.createElement("video");
    sharp.className = "still";
    sharp.muted = true;
    sharp.preload = "metadata";
    sharp.tabIndex = -1;
    sharp.setAttribute("aria-hidden", "true");
    sharp.addEventListener("loadeddata", () => { if (still) still.after(sharp); else link.before(sharp); }, { once: true });
    sharp.src = `${link.href}#t=1`;
  }

  // A video is made when it is played: hundreds of players at once would take seconds to open.
  const close = (video) => {
    const link = one(".play", video.parentElement);
    video.pause();
    video.remove();
    link.hidden = false;
    return link;
  };
  const players = () => all("video[controls]");
  const open = (link) => {
    for (const playing of players()) if (playing.parentElement !== link.parentElement) playing.pause();
    const video = document.createElement("video");
    const still = one("img.still", link.parentElement);
    video.preload = "none";
    if (still) video.poster = still.src;
    video.controls = true;
    video.playsInline = true;
    video.src = link.href;
    video.setAttribute("aria-label", link.getAttribute("aria-label"));
    link.hidden = true;
    link.parentElement.append(video);
    video.focus({ preventScroll: true });
    // A refused start leaves the controls, with which the reader can start it.
    video.play().catch(() => {});
    return video;
  };
  const openReel = (reel) => {
    const shots = all("li", reel);
    const caption = one(".caption", reel);
    const before = [...caption.childNodes];
    const video = open(one(".play", reel));
    let number = 0;
    const name = document.createElement("b");
    const place = document.createElement("span");
    caption.replaceChildren(name, place);
    const show = () => { name.textContent = shots[number].textContent; place.textContent = `${number + 1} of ${shots.length}`; };
    show();
    video.addEventListener("ended", () => {
      number += 1;
      if (number < shots.length) {
        video.removeAttribute("poster");
        video.src = shots[number].dataset.video;
        show();
        video.play().catch(() => {});
      } else {
        close(video).focus({ preventScroll: true });
      }
    });
    new MutationObserver((_, observer) => {
      if (video.isConnected) return;
      observer.disconnect();
      caption.replaceChildren(...before);
    }).observe(video.parentElement, { childList: true });
  };
  const start = (link) => (link.closest("#reel") ? openReel(link.closest("#reel")) : open(link));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.play");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    start(link);
  });

  // Filters: each card's text is read once; a filter shows and hides, and moves nothing.
  const board = one(".board");
  const cards = board ? all(".card", board) : [];
  const texts = cards.map((card) => `${card.id.slice(5)} ${all(".prompt, .facts, .trouble, figcaption", card).map((part) => part.textContent).join(" ")}`.toLowerCase());
  const search = one("#search");
  const provider = one("#provider");
  const chips = all(".chip");
  const found = one(".found");
  const none = one(".none");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = (chips.find((chip) => chip.getAttribute("aria-pressed") === "true") || { dataset: { status: "" } }).dataset.status;
    const wanted = provider ? provider.value : "";
    let shown = 0;
    cards.forEach((card, index) => {
      const fits = words.every((word) => texts[index].includes(word))
        && (!status || card.dataset.status.split(" ").includes(status))
        && (!wanted || card.dataset.providers.split("|").includes(wanted));
      card.hidden = !fits;
      shown += fits;
    });
    found.textContent = shown === cards.length ? `${shown} shot${shown === 1 ? "" : "s"}` : `${shown} of ${cards.length} shots`;
    none.hidden = shown > 0;
  };
  const choose = (chip) => {
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    filter();
  };
  const showAll = () => {
    search.value = "";
    if (provider) provider.value = "";
    if (chips.length) choose(chips[0]); else filter();
  };
  if (search) {
    search.addEventListener("input", filter);
    if (provider) provider.addEventListener("change", filter);
    for (const chip of chips) chip.addEventListener("click", () => choose(chip));
  }
  // A link to a shot must find it, whatever is filtered.
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.hidden) { showAll(); target.scrollIntoView(); }
  });

  // Keyboard.
  const keys = one("#keys");
  const help = one("#help");
  if (help) {
    help.hidden = false;
    help.addEventListener("click", () => keys.showModal());
  }
  const places = () => all(".card:not([hidden]) .stage").map((stage) => one("video", stage) || one(".play:not([hidden])", stage)).filter(Boolean);
  const focus = (place) => { if (place) { place.focus({ preventScroll: true }); place.scrollIntoView({ block: "nearest" }); } };
  const step = (by) => {
    const list = places();
    const index = list.indexOf(document.activeElement);
    focus(index < 0 ? list[by > 0 ? 0 : list.length - 1] : list[index + by]);
  };
  const climb = (by) => {
    const from = document.activeElement.getBoundingClientRect();
    const rows = places().map((place) => [place, place.getBoundingClientRect()]).filter(([, box]) => by * (box.top - from.top) > 8);
    rows.sort(([, a], [, b]) => by * (a.top - b.top) || Math.abs(a.left - from.left) - Math.abs(b.left - from.left));
    if (rows.length) {
      const nearest = rows.filter(([, box]) => Math.abs(box.top - rows[0][1].top) < 60);
      nearest.sort(([, a], [, b]) => Math.abs(a.left - from.left) - Math.abs(b.left - from.left));
      focus(nearest[0][0]);
    }
  };
  const actions = {
    j: () => step(1), k: () => step(-1), d: switchTheme, "?": () => keys.showModal(),
    "/": () => { search.focus(); search.select(); },
    p: () => { const link = one(".screen .play:not([hidden])"); if (link) { link.scrollIntoView({ block: "center" }); start(link); } },
  };
  // Arrows scroll the page and seek in a video; only between posters do they move.
  const moves = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => climb(1), ArrowUp: () => climb(-1) };
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || (keys && keys.open)) return;
    if (event.key === "Escape") {
      if (target === search) { showAll(); search.blur(); }
      else if (players().length) { const links = players().map(close); links[links.length - 1].focus({ preventScroll: true }); }
      else if (search) showAll();
      return;
    }
    if (target.matches("input, select, textarea") || !search) return;
    const isLink = target.matches("a.play");
    if (isLink && event.key === " ") { event.preventDefault(); start(target); return; }
    const action = actions[event.key] || (isLink ? moves[event.key] : null);
    if (action) { event.preventDefault(); action(); }
  });
})();
