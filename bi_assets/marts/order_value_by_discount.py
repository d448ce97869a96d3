"""The value of orders by discount, with its uncertainty (M07, standard mode).

An association, not an effect: practitioners choose their patients' discounts.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa
from scipy.special import stdtrit

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

# Everything is made of exact sums of cents' hundredths, so that the order of the orders does not matter to the last
# digit. Clustered error of a ratio of sums over m patients with y_i in x_i orders, R = sum y / sum x (G10):
# sqrt(m/(m-1) * sum_i (y_i - R x_i)^2) / sum x_i.
_LEVELS = """
WITH eligible AS (
  SELECT discount_pct, patient_id, net_goods, CAST(net_goods * 10000 AS HUGEINT) AS units
  FROM orders
  WHERE order_state IN ('paid', 'part_refunded') AND discount_source IN ('asof', 'asof_null')
    AND net_goods IS NOT NULL
),
levels AS (
  SELECT discount_pct, count(*) AS n, CAST(sum(units) AS DOUBLE) / 1e4 / n AS aov,
    median(CAST(net_goods AS DOUBLE)) AS median_order_value,
    CASE WHEN n > 1 THEN sqrt(CAST(n * sum(units * units) - sum(units) * sum(units) AS DOUBLE) / n / (n - 1)) / 1e4
      END AS sd
  FROM eligible GROUP BY discount_pct
),
patients AS (
  SELECT discount_pct, patient_id, CAST(sum(units) AS DOUBLE) / 1e4 AS y, count(*) AS x
  FROM eligible GROUP BY ALL
),
clusters AS (
  SELECT p.discount_pct, count(*) AS m, avg(y / x ORDER BY patient_id) AS aov_mean_of_patients,
    sum((y - aov * x) ** 2 ORDER BY patient_id) AS squares
  FROM patients p JOIN levels l ON p.discount_pct IS NOT DISTINCT FROM l.discount_pct GROUP BY ALL
)
SELECT l.discount_pct,
  coalesce(regexp_replace(CAST(l.discount_pct AS VARCHAR), '[.]?0+$', ''), 'unknown') AS level,
  n AS n_orders, m AS n_patients, aov, median_order_value, sd, aov_mean_of_patients,
  CASE WHEN m > 1 THEN sqrt(m / (m - 1) * squares) / n END AS cluster_se
FROM levels l JOIN clusters c ON l.discount_pct IS NOT DISTINCT FROM c.discount_pct
ORDER BY l.discount_pct NULLS FIRST"""


def compute(inputs: Mapping[str, duckdb.DuckDBPyRelation], context: Context) -> pa.Table:
    """Return one row per discount; see `DECLARATION` for the columns."""
    levels: pa.Table = inputs["marts.orders_with_discount"].query("orders", _LEVELS).to_arrow_table()  # type: ignore[union-attr]
    n, aov, sd = (levels[name].to_numpy(zero_copy_only=False) for name in ("n_orders", "aov", "sd"))
    sd = sd.astype(float)  # null for one order
    half = stdtrit(np.maximum(n - 1, 1), 0.975) * sd / np.sqrt(n)
    is_ok = (n >= MIN_ORDERS) & (levels["n_patients"].to_numpy() >= MIN_PATIENTS)
    more = {
        "t_low": pa.array(aov - half, from_pandas=True),
        "t_high": pa.array(aov + half, from_pandas=True),
        "quality_flag": pa.array(np.where(is_ok, "ok", "low_n"), pa.string()),
        "publishable": pa.array(is_ok),
        "as_of": pa.array([context.as_of] * len(n), pa.date32()),
    }
    for name, values in more.items():
        levels = levels.append_column(name, values)
    return levels
