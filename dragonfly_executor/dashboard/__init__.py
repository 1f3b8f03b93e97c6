"""The web page that shows pools: its server, its requests and its files. It knows pools by their answers alone."""
