"""Reports: HTML files with tables, plots and a player, which need no server and no network."""
