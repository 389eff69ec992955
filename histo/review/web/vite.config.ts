import { defineConfig } from "vite";

export default defineConfig({
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    // Nothing inlined: the content security policy lets only files of our own in.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
