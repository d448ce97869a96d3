"""Pharmacy BI: change data capture from an online pharmacy to its marts."""
