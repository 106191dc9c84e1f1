// What is wrong with a page for those who do not see it, or not well: controls without a name, references that lead
// nowhere, headings that skip a level, and text with a contrast below 4.5:1 (WCAG 2.2, 1.4.3). Returns a list of texts.

const CONTRAST = 4.5;
const faults = [];
const shown = (node) => node.checkVisibility({checkVisibilityCSS: true}) && !node.closest('.hidden, [aria-hidden="true"]');
const name = (node) => (node.getAttribute('aria-label') || node.labels?.[0]?.textContent || node.textContent ||
  document.getElementById(node.getAttribute('aria-labelledby'))?.textContent || '').trim();
for (const node of document.querySelectorAll('button, a, input, select, textarea, [role=region], [role=img], dialog')) {
  if (!name(node)) faults.push(`no name: ${node.outerHTML.slice(0, 100)}`);
}
const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
for (const id of ids) if (ids.filter((each) => each === id).length > 1) faults.push(`id twice: ${id}`);
for (const node of document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for]')) {
  const wanted = node.getAttribute('aria-labelledby') || node.getAttribute('aria-describedby') || node.getAttribute('for');
  for (const id of wanted.split(' ')) if (!document.getElementById(id)) faults.push(`no element #${id}`);
}
let level = 0;
for (const heading of document.querySelectorAll('main h1, main h2, main h3, main h4')) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) faults.push(`heading skips a level: ${heading.textContent}`);
  level = next;
}
if (document.querySelectorAll('main h1').length !== 1) faults.push('not one h1');
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
const ground = (node) => {
  const stack = [];
  for (let each = node; each; each = each.parentElement) stack.push(rgba(getComputedStyle(each).backgroundColor));
  return stack.reverse().reduce((under, colour) => over(colour, under), [255, 255, 255]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.textContent.trim() || !shown(node) && !node.closest('.ink, .cluster') || node.closest('textarea, option, script, noscript, [aria-disabled], .stale')) continue;
  if (!node.getClientRects().length) continue;
  const style = getComputedStyle(node), under = ground(node);
  const front = over(rgba(node.closest('svg') ? style.fill : style.color), under);
  const [a, b] = [luminance(front), luminance(under)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${text.textContent.trim().slice(0, 40)}`);
}
return [...new Set(faults)];
