"""The documentation as a site, the pages made from the code, and the samples in all of them."""
