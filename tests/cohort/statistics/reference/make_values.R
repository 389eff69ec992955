# Made once: values of R's wilcox.test and glmmTMB that the tests compare with.
#   Rscript tests/cohort/statistics/reference/make_values.R KATHER_CSV
# run in the repository; KATHER_CSV is kather2018_topography.csv (see tests/conftest.py for where it lies).
# Debian: apt-get install r-base-core r-cran-glmmtmb
suppressMessages(library(glmmTMB))
here <- "tests/cohort/statistics/reference"
rows <- list()
put <- function(case, quantity, value) {
  rows[[length(rows) + 1]] <<- data.frame(case = case, quantity = quantity,
    value = format(as.numeric(value), digits = 12, scientific = TRUE))
}

# --- ranks -------------------------------------------------------------------------------------------------
put_wilcox <- function(case, test) {
  put(case, "statistic", test$statistic)
  put(case, "p", test$p.value)
  put(case, "estimate", test$estimate)
  put(case, "low", test$conf.int[1])
  put(case, "high", test$conf.int[2])
}
ranks <- read.csv(file.path(here, "ranks.csv"))
for (case in unique(ranks$case)) {
  x <- ranks$value[ranks$case == case & ranks$group == "reference"]
  y <- ranks$value[ranks$case == case & ranks$group == "other"]
  paired <- grepl("pairs", case)
  if (paired) { y <- (y - x)[y != x]; x <- NULL }  # wilcox.test drops zeros from its interval as well
  exact_too <- !grepl("tied", case) && case != "many pairs"
  put_wilcox(paste(case, "asymptotic"), suppressWarnings(wilcox.test(y, x, conf.int = TRUE, exact = FALSE)))
  if (exact_too) put_wilcox(paste(case, "exact"), wilcox.test(y, x, conf.int = TRUE, exact = TRUE))
}

# --- counts ------------------------------------------------------------------------------------------------
put_model <- function(case, data, random) {
  formula <- function(fixed) as.formula(paste("n_cd8 ~", fixed, "+ offset(log(area_mm2)) +", random))
  full <- glmmTMB(formula("site * zone"), data = data, family = nbinom2)
  null <- glmmTMB(formula("site + zone"), data = data, family = nbinom2)
  table <- summary(full)$coefficients$cond
  for (i in seq_len(nrow(table))) {
    put(case, paste("beta", i), table[i, 1])
    put(case, paste("error", i), table[i, 2])
  }
  put(case, "k", sigma(full))
  for (group in names(VarCorr(full)$cond))
    put(case, paste("sd", if (grepl("lesion", group)) "lesion" else "patient"),
        attr(VarCorr(full)$cond[[group]], "stddev"))
  put(case, "log likelihood", logLik(full))
  put(case, "log likelihood without interaction", logLik(null))
}
zones <- c("outer_margin", "core", "inner_margin")
for (name in c("pairs", "mixed")) {
  data <- read.csv(file.path(here, paste0("counts_", name, ".csv")))
  data$zone <- factor(data$zone, levels = zones)
  data$site <- factor(data$site, levels = c("primary", "metastasis"))
  put_model(paste("counts", name, "nested"), data, "(1 | patient / lesion)")
  put_model(paste("counts", name, "patient"), data, "(1 | patient)")
}
kather <- read.csv(commandArgs(trailingOnly = TRUE)[1])
kather <- kather[kather$marker == "CD8" & kather$cancer %in% c("COAD_PRI", "COAD_MET"), ]
kather$patient <- paste(kather$cancer, kather$patient)
kather$site <- factor(kather$cancer, levels = c("COAD_PRI", "COAD_MET"))
kather$n_cd8 <- kather$n_positive
for (n in 3:4) {
  levels <- c("MARG_500_OUT", "TU_CORE", "MARG_500_IN", "DISTANT_OUT")[1:n]
  data <- kather[kather$zone %in% levels, ]
  data$zone <- factor(data$zone, levels = levels)
  put_model(paste("kather", n, "zones"), data, "(1 | patient)")
}
core <- function(site) {
  d <- kather$density_per_mm2[kather$site == site & kather$zone == "TU_CORE"]
  log2(d + 1)
}
for (exact in c(TRUE, FALSE))
  put_wilcox(paste("kather core", if (exact) "exact" else "asymptotic"),
    wilcox.test(core("COAD_MET"), core("COAD_PRI"), conf.int = TRUE, exact = exact))

values <- do.call(rbind, rows)
out <- file.path(here, "values_r.csv")
writeLines(paste0("# ", R.version.string, "; glmmTMB ", packageVersion("glmmTMB"), "; TMB ", packageVersion("TMB")), out)
suppressWarnings(write.table(values, out, sep = ",", row.names = FALSE, append = TRUE, quote = FALSE))
