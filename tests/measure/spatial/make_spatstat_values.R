# Golden values of R's spatstat: points, windows (ring 1 the outline, others holes) and values as CSV files.
#
#     Rscript make_spatstat_values.R [FOLDER]
#
# Run once; the files are kept, with the versions that made them in spatstat_versions.csv. spatstat estimates on
# a grid of distances: at each it counts what falls into the bin before it, and polygons become pixels for the
# translation correction. The values here are the exact ones that it tends to:
# - border: a distance is added just below each distance that is asked for, so that a bin is as good as empty;
# - Kaplan-Meier: bins begin and end at every event;
# - translation: edge.Trans(exact = TRUE) for each pair, summed here.

suppressMessages(library(spatstat))

folder <- commandArgs(trailingOnly = TRUE)
folder <- if (length(folder)) folder[1] else "."
set.seed(20180417)

windows <- list(
  rectangle = owin(c(100, 1100), c(50, 850)),
  polygon = owin(poly = list(
    x = c(0, 640, 900, 700, 980, 520, 430, 120), y = c(60, 0, 220, 420, 800, 930, 520, 700))),
  holes = owin(poly = list(
    list(x = c(0, 1000, 1040, 480, -30), y = c(0, -40, 760, 900, 640)),
    list(x = c(200, 210, 420, 400), y = c(200, 380, 400, 210)),
    list(x = c(600, 560, 780, 820), y = c(330, 560, 640, 300)),
    list(x = c(300, 330, 350), y = c(600, 660, 590)))))
asked <- c(5, 10, 20, 35, 50, 75, 100, 150)
g_asked <- c(2, 5, 10, 15, 20, 30, 45, 60)

write <- function(table, name) {
  numbers <- vapply(table, is.numeric, TRUE)
  table[numbers] <- lapply(table[numbers], function(v) sprintf("%.17g", v))
  write.csv(table, file.path(folder, name), row.names = FALSE, quote = FALSE)
}

# Just below each distance, so that what lies between them is nothing.
with_before <- function(r) sort(c(0, r * (1 - 1e-12), r))
at <- function(f, column, r) as.data.frame(f)[[column]][match(r, f$r)]

rings <- list(); points <- list(); values <- list()
for (name in names(windows)) {
  W <- windows[[name]]
  bdry <- as.polygonal(W)$bdry
  for (k in seq_along(bdry))
    rings[[length(rings) + 1]] <- data.frame(window = name, ring = k, x_um = bdry[[k]]$x, y_um = bdry[[k]]$y)

  # X in clumps, T denser to the right.
  X <- rThomas(3e-5, 40, 4, win = W)
  intensity <- function(x, y) 1.6e-4 * exp(x / 900)
  T <- rpoispp(intensity, win = W)
  both <- superimpose(x = X, t = T)
  lambda_x <- 8e-5 * exp(X$y / 1500)
  lambda_t <- intensity(T$x, T$y)
  points[[length(points) + 1]] <- data.frame(
    window = name, kind = as.character(marks(both)), x_um = both$x, y_um = both$y,
    intensity_per_um2 = c(lambda_x, lambda_t))

  add <- function(statistic, correction, r, value)
    values[[length(values) + 1]] <<- data.frame(
      window = name, statistic = statistic, correction = correction, r_um = r, value = value)

  r <- with_before(asked)
  K <- Kcross(both, "x", "t", r = r, correction = c("border", "isotropic"))
  add("K", "border", asked, at(K, "border", asked))
  add("K", "isotropic", asked, at(K, "iso", asked))
  L <- Lcross(both, "x", "t", r = r, correction = "isotropic")
  add("L", "isotropic", asked, at(L, "iso", asked))
  I <- Kcross.inhom(both, "x", "t", lambda_x, lambda_t, r = r, correction = c("border", "isotropic"))
  add("K_inhom", "border", asked, at(I, "border", asked))
  add("K_inhom", "isotropic", asked, at(I, "iso", asked))

  pairs <- crosspairs(X, T, max(asked), what = "ijd")
  weight <- edge.Trans(X[pairs$i], T[pairs$j], W = W, paired = TRUE, exact = TRUE)
  inhom <- weight / (lambda_x[pairs$i] * lambda_t[pairs$j])
  upto <- function(w) vapply(asked, function(r) sum(w[pairs$d <= r]), 0)
  add("K", "translation", asked, upto(weight) * area(W) / (npoints(X) * npoints(T)))
  add("K_inhom", "translation", asked, upto(inhom) / area(W))

  d <- nncross(X, T)$dist
  b <- bdist.points(X)
  G <- Gcross(both, "x", "t", r = with_before(g_asked), correction = "rs")
  add("G", "border", g_asked, at(G, "rs", g_asked))
  seen <- unique(pmin(d, b))
  events <- sort(unique(c(0, seen, seen + 1e-9, g_asked, max(seen) + 1)))
  G <- Gcross(both, "x", "t", r = events, correction = "km")
  add("G", "kaplan_meier", g_asked, at(G, "km", g_asked))
  add("G", "theoretical", g_asked, at(G, "theo", g_asked))

  add("nearest", "mean", NA, mean(d))
  add("clark_evans", "none", NA, as.numeric(clarkevans(T, correction = "none")))
  own <- unique(pmin(nndist(T), bdist.points(T)))
  fine <- sort(unique(c(0, own, own + 1e-9, max(own) + 1)))
  km <- Gest(T, r = fine, correction = "km")$km
  add("clark_evans", "cdf", NA, sum(fine[-1] * diff(km)) / max(km) * 2 * sqrt(npoints(T) / area(W)))
  add("border_distance", "sum", NA, sum(b))
  add("area", "um2", NA, area(W))
  # Gaussian kernel at the points, without the point itself; exact edge weights for the rectangle only.
  if (name == "rectangle") {
    at_points <- density(T, sigma = 120, at = "points", leaveoneout = TRUE, edge = TRUE)
    add("intensity", "uniform", NA, mean(at_points))
    add("intensity_sd", "uniform", NA, sd(at_points))
  }
}
write(do.call(rbind, rings), "spatstat_windows.csv")
write(do.call(rbind, points), "spatstat_points.csv")
write(do.call(rbind, values), "spatstat_values.csv")
packages <- c("spatstat", "spatstat.explore", "spatstat.geom", "spatstat.random")
versions <- vapply(packages, function(p) as.character(packageVersion(p)), "")
write(data.frame(
  name = c("R", packages), version = c(paste(R.version$major, R.version$minor, sep = "."), versions)),
  "spatstat_versions.csv")
