"""The look of the page: colors and style sheets, pieces of HTML, tables and charts. All of it is local."""
