// Keeps the page as the daemon knows it: asks for the same page again, and puts what has changed in its place.
// Without this script the page is whole, and the browser loads it again every ten seconds.
"use strict";
(() => {
  const EVERY_MS = 2000;
  const PATIENCE_MS = 10000;
  const STALE_MS = 5000;
  const root = document.documentElement;
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const announcement = document.getElementById("announce");
  let etag = main.dataset.etag ? `"${main.dataset.etag}"` : "";
  let answered = Date.now();
  let asof = live.querySelector("time")?.textContent ?? "";
  let trouble = "";
  let timer = 0;
  let asking = false;
  let parts = partsOf(main);

  function partsOf(holder) {
    return new Map([...holder.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part.outerHTML]));
  }

  function ageOf(seconds) {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.max(Math.floor(seconds), 0)} s`;
  }

  // Times as ages; what was there before stays as the title.
  function age() {
    const now = Date.now();
    for (const time of main.querySelectorAll("time[data-age]")) {
      if (!time.title) time.title = time.textContent;
      const words = `${ageOf((now - Date.parse(time.dateTime)) / 1000)} ago`;
      if (time.textContent !== words) time.textContent = words;
    }
  }

  function tell() {
    const silent = Date.now() - answered;
    const stale = trouble !== "" || silent > STALE_MS + EVERY_MS;
    const was = root.classList.contains("is-stale");
    root.classList.toggle("is-stale", stale && !document.hidden);
    root.classList.toggle("is-live", !stale);
    const words = stale ? `${trouble || "no answer"} for ${ageOf(silent / 1000)}` : `live, as of ${asof}`;
    if (live.textContent !== words) live.textContent = words;
    if (stale !== was && !document.hidden) announce(stale ? "The daemon does not answer." : "The daemon answers again.");
    age();
  }

  function announce(words) {
    announcement.textContent = words;
  }

  // Of what is there only parts that differ are replaced; the reader keeps place, focus and what is unfolded.
  function take(fresh) {
    const next = fresh.getElementById("main");
    if (fresh.documentElement.dataset.assets !== root.dataset.assets) {
      location.reload();
      return;
    }
    const wanted = partsOf(next);
    const said = main.querySelector("#verdict")?.textContent;
    const opened = new Map([...main.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
    const scrolled = new Map([...main.querySelectorAll(".scroll")].map((each) => [each.getAttribute("aria-label"), each.scrollLeft]));
    const focus = pathTo(document.activeElement);
    const same = [...wanted.keys()].join() === [...parts.keys()].join();
    if (same) {
      for (const [name, html] of wanted) {
        if (html !== parts.get(name)) {
          main.querySelector(`[data-part="${name}"]`).replaceWith(next.querySelector(`[data-part="${name}"]`));
        }
      }
    } else {
      main.replaceChildren(...next.childNodes);
    }
    parts = wanted;
    for (const each of main.querySelectorAll("details[id]")) each.open = opened.get(each.id) ?? each.open;
    for (const each of main.querySelectorAll(".scroll")) {
      each.scrollLeft = scrolled.get(each.getAttribute("aria-label")) ?? each.scrollWidth;
    }
    if (focus && document.activeElement === document.body) main.querySelector(focus)?.focus({ preventScroll: true });
    document.title = fresh.title;
    main.dataset.level = next.dataset.level;
    document.querySelector('link[rel="icon"]').href = `/static/icon-${next.dataset.level}.svg`;
    const says = main.querySelector("#verdict")?.textContent;
    if (says && says !== said) announce(says);
  }

  function pathTo(element) {
    if (!element || !main.contains(element) || element === main) return "";
    if (element.id) return `#${CSS.escape(element.id)}`;
    const part = element.closest("[data-part]");
    const within = part ? `[data-part="${part.dataset.part}"] ` : "";
    const tag = element.tagName.toLowerCase();
    for (const name of ["href", "aria-label"]) {
      if (element.hasAttribute(name)) return `${within}${tag}[${name}="${CSS.escape(element.getAttribute(name))}"]`;
    }
    return `${within}${tag}`;
  }

  async function ask() {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(location.pathname, {
        cache: "no-store",
        headers: etag ? { "If-None-Match": etag } : {},
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (answer.status !== 304) {
        if (!(answer.headers.get("Content-Type") ?? "").startsWith("text/html")) throw new Error(`answer ${answer.status}`);
        take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        etag = answer.headers.get("ETag") ?? "";
      }
      answered = Date.now();
      asof = timeOf(answer.headers.get("Date")) ?? asof;
      trouble = "";
    } catch (error) {
      trouble = error.message.startsWith("answer ") ? error.message : "no answer";
    } finally {
      asking = false;
      tell();
      timer = setTimeout(ask, EVERY_MS);
    }
  }

  function timeOf(date) {
    const moment = date ? new Date(date) : null;
    return moment && !Number.isNaN(moment.valueOf()) ? `${moment.toISOString().slice(0, 19).replace("T", " ")} UTC` : null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
    } else {
      answered = Math.max(answered, Date.now() - EVERY_MS);
      ask();
    }
  });
  // The newest is at the right.
  for (const each of main.querySelectorAll(".scroll")) each.scrollLeft = each.scrollWidth;
  setInterval(tell, 1000);
  tell();
  timer = setTimeout(ask, EVERY_MS);
})();
