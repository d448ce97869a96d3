"""The value of orders by discount, with its uncertainty (M07, standard mode).

An association, not an effect: practitioners choose their patients' discounts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy import stats

from bi_assets.refresh.mart import Context

DECLARATION = """
question = "How are discount and order value associated, and how sure is that?"
grain    = ["level"]
schedule = "*/15 * * * *"
inputs   = ["marts.orders_with_discount"]
not_null = ["n_orders", "n_patients", "aov"]

[columns]
discount_pct          = { type = "DECIMAL(5,2)", unit = "percent", meaning = "percent off; null where it is known that there was none recorded" }
level                 = { type = "VARCHAR", meaning = "the discount as text, or unknown" }
n_orders              = { type = "BIGINT", unit = "count", meaning = "paid or partly refunded orders whose discount was known when they were made" }
n_patients            = { type = "BIGINT", unit = "count", meaning = "patients who made them" }
aov                   = { type = "DOUBLE", meaning = "average net goods of an order" }
median_order_value    = { type = "DOUBLE", meaning = "median net goods of an order" }
sd                    = { type = "DOUBLE", meaning = "standard deviation of net goods; null for one order" }
t_low                 = { type = "DOUBLE", meaning = "lower end of the 95 % t interval of aov, orders taken as independent" }
t_high                = { type = "DOUBLE", meaning = "upper end of the 95 % t interval of aov, orders taken as independent" }
aov_mean_of_patients  = { type = "DOUBLE", meaning = "mean of the patients' own averages" }
cluster_se            = { type = "DOUBLE", meaning = "standard error of aov, clustered by patient" }
quality_flag          = { type = "VARCHAR", meaning = "ok, or low_n: fewer than 30 orders or 11 patients" }
publishable           = { type = "BOOLEAN", meaning = "whether it is sure enough to be passed on" }
as_of                 = { type = "DATE", unit = "date", meaning = "last whole business day of the data" }

[[checks]]
name     = "orders_counted_once"
sentence = "Every eligible order is counted once."
breaches = '''
  SELECT CAST(sum(n_orders) AS BIGINT) FROM refreshed HAVING count(*) > 0
  EXCEPT SELECT count(*) FROM marts.orders_with_discount
  WHERE order_state IN ('paid', 'part_refunded') AND discount_source IN ('asof', 'asof_null')
    AND net_goods IS NOT NULL'''
"""

MIN_ORDERS, MIN_PATIENTS = 30, 11  # metrics.md G11


def compute(inputs: Mapping[str, pl.DataFrame], context: Context) -> pl.DataFrame:
    """Return one row per discount; see `DECLARATION` for the columns.

    The clustered error is that of a ratio of sums over patients (metrics.md G10):
    sqrt(m/(m-1) * sum_i (y_i - R x_i)^2) / sum x_i, for m > 1 patients with y_i in x_i orders.
    """
    orders = (
        inputs["marts.orders_with_discount"]
        .filter(
            pl.col("order_state").is_in(["paid", "part_refunded"]),
            pl.col("discount_source").is_in(["asof", "asof_null"]),
            pl.col("net_goods").is_not_null(),
        )
        .select("discount_pct", "patient_id", value=pl.col("net_goods").cast(pl.Float64))
    )
    patients = orders.group_by("discount_pct", "patient_id", maintain_order=True).agg(
        y=pl.col("value").sum(), x=pl.len()
    )
    levels = orders.group_by("discount_pct", maintain_order=True).agg(
        n_orders=pl.len(),
        aov=pl.col("value").mean(),
        median_order_value=pl.col("value").median(),
        sd=pl.col("value").std(),
    )
    residual = pl.col("y") - pl.col("y").sum() / pl.col("x").sum() * pl.col("x")
    m = pl.len()
    clusters = patients.group_by("discount_pct", maintain_order=True).agg(
        n_patients=m,
        aov_mean_of_patients=(pl.col("y") / pl.col("x")).mean(),
        cluster_se=pl.when(m > 1).then((m / (m - 1) * (residual**2).sum()).sqrt() / pl.col("x").sum()),
    )
    frame = levels.join(clusters, on="discount_pct", nulls_equal=True).sort("discount_pct")
    n = frame["n_orders"].to_numpy().astype(float)
    quantile = stats.t.ppf(0.975, np.where(n > 1, n - 1, np.nan))
    half = pl.Series(quantile / np.sqrt(n)).fill_nan(None) * frame["sd"]
    return frame.with_columns(
        level=pl.col("discount_pct").cast(pl.Float64).map_elements("{:g}".format, return_dtype=pl.String)
        .fill_null("unknown"),
        t_low=pl.col("aov") - half,
        t_high=pl.col("aov") + half,
        quality_flag=pl.when((pl.col("n_orders") >= MIN_ORDERS) & (pl.col("n_patients") >= MIN_PATIENTS))
        .then(pl.lit("ok"))
        .otherwise(pl.lit("low_n")),
        as_of=pl.lit(context.as_of, dtype=pl.Date),
    ).with_columns(publishable=pl.col("quality_flag") == "ok")  # fmt: skip
