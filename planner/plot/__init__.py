"""Pictures for reports: matplotlib for SVG and PNG, plotly for HTML, each imported when it draws."""
