// Walks every page of the built book, wide and narrow, light and dark, and says what is wrong.
// With a second argument it leaves a picture of each in that folder.
import { createServer } from "node:http";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { extname, join, resolve } from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";

const book = resolve(process.argv[2] ?? "_build/html");
const pictures = process.argv[3];
const SMALLEST = 9; // pixels of text in figures
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css",
  ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json" };

const server = createServer((request, response) => {
  const path = join(book, decodeURIComponent(new URL(request.url, "http://book").pathname));
  try {
    const body = readFileSync(path);
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const origin = `http://127.0.0.1:${server.address().port}`;

const faults = [];
const targets = new Map(); // page -> its ids
const links = []; // [page, address]
const pages = readdirSync(book, { recursive: true }).sort().filter((path) => {
  if (!path.endsWith(".html") || path.startsWith("_")) return false;
  const onward = /http-equiv="Refresh" content="0; url=([^"]+)"/i.exec(readFileSync(join(book, path)));
  if (onward) links.push([path, new URL(onward[1], `${origin}/${path}`).href]);
  return !onward;
});

// What the page itself can tell of its layout and its pictures.
function inspect(smallest) {
  const wrong = [];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const width = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth > width) {
    const wide = [...document.body.querySelectorAll("article *")]
      .filter((element) => element.getBoundingClientRect().right > width + 1).slice(0, 3);
    wrong.push(`wider than the screen: ${wide.map((e) => e.outerHTML.slice(0, 80))}`);
  }
  for (const image of document.querySelectorAll("article img, article svg[role=img]")) {
    const name = image.getAttribute("alt") ?? image.getAttribute("aria-label");
    if (!name) wrong.push(`no alt text: ${image.outerHTML.slice(0, 80)}`);
    if (image.complete && !image.naturalWidth) wrong.push(`not loaded: ${image.src}`);
  }
  for (const figure of document.querySelectorAll("svg.drawing")) {
    if (!shown(figure)) continue;
    const scale = figure.getBoundingClientRect().width / figure.viewBox.baseVal.width;
    const sizes = [...figure.querySelectorAll("text, tspan")]
      .map((text) => scale * parseFloat(getComputedStyle(text).fontSize));
    if (Math.min(...sizes) < smallest)
      wrong.push(`text of ${Math.min(...sizes).toFixed(1)} px in ${figure.ariaLabel}`);
  }
  return wrong;
}

// What axe finds by its rules, each with the first places and the colours there.
async function violations(rules) {
  const found = await axe.run(document, { runOnly: rules, resultTypes: ["violations"] });
  return found.violations.map(({ id, nodes }) => ({
    id: `${id} (${nodes.length})`,
    nodes: nodes.slice(0, 3).map(({ target, any }) =>
      [target, any[0]?.data?.fgColor, any[0]?.data?.bgColor].filter(Boolean).join(" ")).join("; "),
  }));
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-sync",
    "--disable-background-networking", "--disable-component-update"],
});
const context = await browser.newContext({ reducedMotion: "reduce" });
await context.route("**", (route) => {
  const address = route.request().url();
  if (/^(data|blob):/.test(address) || address.startsWith(`${origin}/`)) return route.continue();
  faults.push(`asks for ${address}`);
  return route.abort();
});
for (const path of pages) {
  const page = await context.newPage();
  let look = "";
  const said = (what) => faults.push(`${path}${look}: ${what}`);
  page.on("console", (message) => message.type() === "error" && said(message.text()));
  page.on("pageerror", (error) => said(error.message));
  page.on("response", (response) => response.status() >= 400 && said(`no ${response.url()}`));
  await page.goto(`${origin}/${path}`);
  await page.evaluate(() => window.MathJax?.startup?.promise);
  await page.evaluate(axe.source);
  for (const width of [1280, 390]) {
    await page.setViewportSize({ width, height: 800 });
    for (const colorScheme of ["light", "dark"]) {
      look = ` (${width}, ${colorScheme})`;
      await page.emulateMedia({ colorScheme });
      await page.waitForFunction((theme) => document.documentElement.dataset.theme === theme, colorScheme);
      if (colorScheme === "light")
        for (const wrong of await page.evaluate(inspect, width === 390 ? SMALLEST : 0)) said(wrong);
      // Neither colours nor names depend on the width.
      const rules = colorScheme === "light" ? ["wcag2a", "wcag2aa"] : ["color-contrast"];
      for (const { id, nodes } of width === 390 ? [] : await page.evaluate(violations, rules)) said(`${id}: ${nodes}`);
      if (pictures) {
        const name = `${path.replaceAll("/", "_")}-${width}-${colorScheme}.png`;
        await page.screenshot({ path: join(pictures, name), fullPage: true });
      }
    }
  }
  const [ids, addresses] = await page.evaluate(() => [
    [...document.querySelectorAll("[id]")].map((element) => element.id),
    [...document.querySelectorAll("a[href]")].map((anchor) => anchor.href),
  ]);
  targets.set(path, new Set(ids));
  for (const address of new Set(addresses)) links.push([path, address]);
  await page.close();
}
await browser.close();
server.close();

for (const [path, address] of links) {
  if (!address.startsWith(`${origin}/`)) continue;
  const { pathname, hash } = new URL(address);
  const [to, anchor] = [decodeURIComponent(pathname).slice(1), decodeURIComponent(hash).slice(1)];
  if (!statSync(join(book, to), { throwIfNoEntry: false })?.isFile()) faults.push(`${path}: no page ${to}`);
  else if (anchor && targets.has(to) && !targets.get(to).has(anchor)) faults.push(`${path}: no ${to}#${anchor}`);
}
console.log(faults.join("\n"));
console.log(`${pages.length} pages, ${links.length} links: ${faults.length} faults`);
process.exit(faults.length || !pages.length ? 1 : 0);
