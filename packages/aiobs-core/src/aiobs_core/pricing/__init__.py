"""What model calls cost: the price table, the user's own prices, and the arithmetic between them."""

from aiobs_core.pricing.book import PriceBook
from aiobs_core.pricing.cost import Cost
from aiobs_core.pricing.file import PriceFile, read_price_file

__all__ = ["Cost", "PriceBook", "PriceFile", "read_price_file"]
