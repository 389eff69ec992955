# Made once: values of R's glmmTMB that the tests of the fraction model compare with.
#   Rscript tests/cohort/statistics/reference/make_fractions.R
# run in the repository. Debian: apt-get install r-base-core r-cran-glmmtmb
suppressMessages(library(glmmTMB))
here <- "tests/cohort/statistics/reference"
rows <- list()
put <- function(case, quantity, value) {
  rows[[length(rows) + 1]] <<- data.frame(case = case, quantity = quantity,
    value = format(as.numeric(value), digits = 12, scientific = TRUE))
}
put_model <- function(case, data, fixed, fixed_null, random) {
  made <- function(terms) glmmTMB(as.formula(paste("cbind(n_positive, n_cd8 - n_positive) ~", terms, random)),
    data = data, family = betabinomial)
  full <- made(fixed)
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
  put(case, "log likelihood of the null", logLik(made(fixed_null)))
}
zones <- c("outer_margin", "core", "inner_margin")
for (name in c("pairs", "mixed")) {
  data <- read.csv(file.path(here, paste0("fractions_", name, ".csv")))
  data$zone <- factor(data$zone, levels = zones)
  data$site <- factor(data$site, levels = c("primary", "metastasis"))
  put_model(paste(name, "nested"), data, "site * zone", "site + zone", "+ (1 | patient / lesion)")
  put_model(paste(name, "patient"), data, "site * zone", "site + zone", "+ (1 | patient)")
  all <- aggregate(cbind(n_positive, n_cd8) ~ patient + site, data = data, FUN = sum)
  put_model(paste(name, "all zones"), all, "site", "1", "+ (1 | patient)")
  if (name == "mixed") put_model("one row a patient", all[!duplicated(all$patient), ], "site", "1", "")
}
values <- do.call(rbind, rows)
out <- file.path(here, "fractions_r.csv")
writeLines(paste0("# ", R.version.string, "; glmmTMB ", packageVersion("glmmTMB"), "; TMB ", packageVersion("TMB")), out)
suppressWarnings(write.table(values, out, sep = ",", row.names = FALSE, append = TRUE, quote = FALSE))
