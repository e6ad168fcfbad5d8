"""Generated from protos/modelmora/v1 by `make proto`. Never edited by hand."""
