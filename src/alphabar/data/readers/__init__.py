"""One module for each kind of source of images; `find` is the table of them."""
