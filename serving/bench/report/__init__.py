"""Results for people: tables of texts, CSV, and one HTML page with plots. Knows documents only, never a server."""
