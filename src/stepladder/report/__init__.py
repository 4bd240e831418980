"""A climb's folder in; one HTML page that opens offline, its figures as files, and the model's card out."""
