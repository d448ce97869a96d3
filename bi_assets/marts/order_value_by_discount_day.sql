/*
question  = "What were the orders of a day worth, by discount? (Sums from which averages are made.)"
grain     = ["order_date", "discount"]
partition = "order_date"

[columns]
order_date    = { unit = "date", meaning = "business date of the orders" }
discount      = { unit = "percent", meaning = "discount as stored, negative" }
n_orders      = { unit = "count", meaning = "orders that are not deleted, and whose discount is known or assumed" }
n_amounts     = { unit = "count", meaning = "those of them with an amount" }
sum_amount    = { unit = "money", meaning = "sum of amount_total" }
sum_net_goods = { unit = "money", meaning = "sum of net_goods" }
last_event_at = { unit = "UTC", meaning = "when one of these orders last changed" }

[[checks]]
name     = "ties_to_orders"
sentence = "The sums of a day tie to its orders, to the cent."
breaches = """
  (SELECT order_date, sum(sum_amount) AS amount FROM refreshed
   WHERE sum_amount IS NOT NULL GROUP BY order_date)
  EXCEPT
  (SELECT order_date, sum(amount_total) FROM marts.orders_with_discount
   WHERE order_state <> 'deleted' AND discount IS NOT NULL
     AND order_date IN (SELECT order_date FROM refreshed) GROUP BY order_date)"""
*/
SELECT
  order_date,
  discount,
  count(*) AS n_orders,
  count(amount_total) AS n_amounts,
  CAST(sum(amount_total) AS DECIMAL(38, 4)) AS sum_amount,
  CAST(sum(net_goods) AS DECIMAL(38, 4)) AS sum_net_goods,
  max(last_event_at) AS last_event_at
FROM marts.orders_with_discount
WHERE order_state <> 'deleted'
  AND discount IS NOT NULL
  AND discount_source IN ('asof', 'backfill_first_known')
GROUP BY order_date, discount
