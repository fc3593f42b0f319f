"""Talk to the model: in the terminal, in a notebook, on a local web page. All three hold a `streaming.Session`."""
