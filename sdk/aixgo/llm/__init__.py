"""Language models behind one contract: one file per vendor, metering around every one of them."""
