/* Chooses a picture for an input: its bytes as base64, or its pixels as numbers. */

import { h } from "./dom.js";
import { t } from "./i18n.js";

/* The weights of red, green and blue in the brightness of a pixel (ITU-R BT.601). */
const GREY = [0.299, 0.587, 0.114];
const DIGITS = 4;

/* A field for a file; the text of a picture goes to `set`. */
export function choosing(column, set) {
  const { picture } = column;
  const canvas = h("canvas", { hidden: true, role: "img", ...(picture && { width: picture.width, height: picture.height }) });
  const told = h("small", { role: "status" });
  const file = h("input", { type: "file", accept: "image/*", ariaLabel: t("picture.choose", { column: column.name }) });
  // Models do not say which they were trained on.
  const top = h("select", { ariaLabel: t("picture.scale") }, [1, 255].map((value) => h("option", { value }, t("picture.to", { value }))));
  file.addEventListener("change", read);
  top.addEventListener("change", send);

  async function read() {
    const [chosen] = file.files;
    if (!chosen) return;
    told.textContent = "";
    if (!picture) {
      set(await base64Of(chosen));
      return;
    }
    try {
      const bitmap = await createImageBitmap(chosen);
      canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, picture.width, picture.height);
    } catch {
      told.textContent = t("picture.unreadable", { name: chosen.name });
      return;
    }
    canvas.ariaLabel = t("picture.sent", { name: chosen.name, width: picture.width, height: picture.height });
    canvas.hidden = false;
    send();
  }

  function send() {
    if (canvas.hidden) return;
    const { data } = canvas.getContext("2d").getImageData(0, 0, picture.width, picture.height);
    set(JSON.stringify(numbersOf(data, picture, picture.is_integer ? 255 : Number(top.value))));
  }

  return h("div", { className: "picture" }, canvas, h("div", null, file, picture && !picture.is_integer && top, told));
}

/* The pixels as height × width (× channels) numbers from 0 to `top`. */
function numbersOf(data, { height, width, channels, has_channels: hasChannels }, top) {
  const shown = (value) => (top === 255 ? Math.round(value) : Number((value / 255).toFixed(DIGITS)));
  return Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => {
    const pixel = [...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)];
    const values = channels === 1 ? [GREY.reduce((sum, weight, place) => sum + weight * pixel[place], 0)] : pixel.slice(0, channels);
    return hasChannels ? values.map(shown) : shown(values[0]);
  }));
}

const base64Of = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.split(",")[1]);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});
