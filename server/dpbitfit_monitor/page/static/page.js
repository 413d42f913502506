// Refreshes the page while it is open, and changes only what differs, so that focus,
// scrolling and open tables stay. Without this script the page reloads itself.
"use strict";

const PATIENCE = 10000; // milliseconds, then what is shown is marked as old

const stale = document.getElementById("stale");
const news = document.getElementById("news");
let main = document.getElementById("main");
let since = new Date();

function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  // What the viewer has opened or is typing stays.
  if (old === document.activeElement && old.nodeName === "INPUT") return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const present = [...old.childNodes];
  const next = [...fresh.childNodes];
  next.forEach((node, at) => {
    if (at < present.length) morph(present[at], node);
    else old.append(node);
  });
  present.slice(next.length).forEach((node) => node.remove());
}

function showStale(text) {
  stale.textContent = text;
  stale.hidden = !text;
  main.classList.toggle("old", Boolean(text));
}

async function refresh() {
  const shownNews = main.dataset.news;
  try {
    const response = await fetch(location.href, {
      headers: { Accept: "text/html" },
      redirect: "manual",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (response.type === "opaqueredirect") {
      location.reload(); // signed out
      return;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) throw new Error("not a page of this monitor");
    document.title = page.title;
    morph(main, fresh);
    main = document.getElementById("main");
    since = new Date();
    showStale("");
    if (main.dataset.news !== shownNews) news.textContent = main.dataset.news;
  } catch {
    const at = since.toISOString().slice(0, 19).replace("T", " ");
    showStale(`The monitor does not answer. What is shown is of ${at} UTC and may no longer hold.`);
  }
  scheduleNext();
}

function scheduleNext() {
  const seconds = Number(main.dataset.refresh);
  if (seconds > 0) setTimeout(refresh, 1000 * seconds);
}

scheduleNext();
