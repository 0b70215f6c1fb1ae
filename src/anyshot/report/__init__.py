"""The report: tables, plots and galleries of a finished run on one page that needs no network."""
