/* Renders the OpenAPI document with Swagger UI, which its script defines as a global. */

"use strict";

const root = document.getElementById("docs");
window.SwaggerUIBundle({
  domNode: root,
  url: root.dataset.document,
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  presets: [window.SwaggerUIBundle.presets.apis],
});
