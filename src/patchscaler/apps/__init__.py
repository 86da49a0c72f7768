"""Programs on top of the library: the command line, the web page, videos and clusters."""
