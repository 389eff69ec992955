import { readFileSync } from "node:fs";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [
    {
      // Whoever hands the built page on hands this on.
      name: "licence-of-openseadragon",
      generateBundle() {
        const source = readFileSync("node_modules/openseadragon/LICENSE.txt", "utf-8");
        this.emitFile({ type: "asset", fileName: "assets/openseadragon-licence.txt", source });
      },
    },
  ],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    // Nothing inlined: the content security policy lets only files of our own in.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
