"""The five queries that a method may ask: each bounded whatever the data holds."""
