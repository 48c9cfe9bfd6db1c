/* Picture inputs, sent as base64 bytes or as numbers. */

import { h } from "./dom.js";
import { t } from "./i18n.js";

/* The weights of red, green and blue in the brightness of a pixel (ITU-R BT.601). */
const LUMA_WEIGHTS = [0.299, 0.587, 0.114];
const DIGITS = 4;

/* Returns a file input with a preview; it passes the file as text to `onText`. */
export function pictureInput(column, onText) {
  const { picture } = column;
  const { width, height } = picture ?? {};
  const canvas = h("canvas", { hidden: true, role: "img", ...(picture && { width, height }) });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const status = h("small", { role: "status" });
  const file = h("input", { type: "file", accept: "image/*", ariaLabel: t("picture.choose", { column: column.name }) });
  // Models do not state the pixel range that they expect.
  const maximum = h("select", { ariaLabel: t("picture.scale") }, [1, 255].map((value) => h("option", { value }, t("picture.to", { value }))));
  file.addEventListener("change", read);
  maximum.addEventListener("change", send);

  async function read() {
    const [selected] = file.files;
    if (!selected) return;
    status.textContent = "";
    const { name } = selected;
    const content = await (picture ? createImageBitmap(selected) : base64Of(selected)).catch(() => null);
    if (content === null) {
      status.textContent = t("picture.unreadable", { name });
      return;
    }
    if (!picture) {
      onText(content);
      return;
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(content, 0, 0, width, height);
    canvas.ariaLabel = t("picture.sent", { name, width, height });
    canvas.hidden = false;
    send();
  }

  function send() {
    if (canvas.hidden) return;
    const { data } = context.getImageData(0, 0, width, height);
    onText(JSON.stringify(numbersOf(data, picture, picture.is_integer ? 255 : Number(maximum.value))));
  }

  return h("div", { className: "picture" }, canvas, h("div", null, file, picture && !picture.is_integer && maximum, status));
}

/* Returns the pixels as height × width (× channels) numbers from 0 to `maximum`. */
function numbersOf(data, { height, width, channels, has_channels: hasChannels }, maximum) {
  const round = (value) => (maximum === 255 ? Math.round(value) : Number((value / 255).toFixed(DIGITS)));
  return Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => {
    const pixel = [...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)];
    const values = channels === 1 ? [LUMA_WEIGHTS.reduce((sum, weight, i) => sum + weight * pixel[i], 0)] : pixel.slice(0, channels);
    return hasChannels ? values.map(round) : round(values[0]);
  }));
}

const base64Of = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.split(",")[1]);
  reader.onerror = reject;
  reader.readAsDataURL(file);
});
