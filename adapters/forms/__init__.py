from graftwork.adapters.forms.forms import of as of
