// Looks again while the page is open, and changes only what has changed, so that
// focus, scrolling and open tables stay. Without this script the page reloads itself.
"use strict";

const PATIENCE = 10000; // milliseconds, then what is shown is called old

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
  // What somebody opened or is typing is theirs.
  if (old === document.activeElement && old.nodeName === "INPUT") return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const kept = [...old.childNodes];
  const next = [...fresh.childNodes];
  next.forEach((node, at) => {
    if (at < kept.length) morph(kept[at], node);
    else old.append(node);
  });
  kept.slice(next.length).forEach((node) => node.remove());
}

function say(text) {
  stale.textContent = text;
  stale.hidden = !text;
  main.classList.toggle("old", Boolean(text));
}

async function look() {
  const said = main.dataset.news;
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      redirect: "manual",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.type === "opaqueredirect") {
      location.reload(); // signed out
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) throw new Error("not a page of ours");
    document.title = page.title;
    morph(main, fresh);
    main = document.getElementById("main");
    since = new Date();
    say("");
    if (main.dataset.news !== said) news.textContent = main.dataset.news;
  } catch {
    const at = since.toISOString().slice(0, 19).replace("T", " ");
    say(`The monitor does not answer. What is shown is of ${at} UTC and may no longer hold.`);
  }
  again();
}

function again() {
  const seconds = Number(main.dataset.refresh);
  if (seconds > 0) setTimeout(look, 1000 * seconds);
}

again();
